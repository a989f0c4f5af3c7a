"""L1, host world: MEDS events become tokens. Nothing here imports jax."""
