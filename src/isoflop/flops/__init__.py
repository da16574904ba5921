"""What a token costs under a named convention, what hardware delivers, and the ledger that adds it up."""
