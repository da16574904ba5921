"""Simple curves through points: families, selection, extrapolation, forecasts of losses."""
