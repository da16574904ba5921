"""Long proofs, run by `make prove`; each leaves a dated record in results/proofs/."""
