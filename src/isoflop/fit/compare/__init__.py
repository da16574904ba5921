"""Is it real? Differences, power, looks before the end, the noise of seeds."""
