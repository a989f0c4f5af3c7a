"""L1, host world: raw sources become MEDS events. Nothing here imports jax."""
