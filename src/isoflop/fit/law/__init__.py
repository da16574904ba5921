"""L(N, D) = E + A/N^alpha + B/D^beta fitted to a table of runs: certified fits, a few runs, choices, the report."""
