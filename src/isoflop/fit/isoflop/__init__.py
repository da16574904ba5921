"""Sweeps at equal FLOPs (approach 2 of Hoffmann et al. 2022): bowls, their noise, intervals of the best size."""
