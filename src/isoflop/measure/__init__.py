"""From weights to measurements with their sampling error. `heldout.score` is the function that runs name."""
