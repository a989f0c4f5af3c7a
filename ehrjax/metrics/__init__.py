"""L1, host world: numbers about predictions, with intervals over subjects. Nothing here imports jax."""
