"""L1, host world: figures and self-contained HTML pages. Nothing here imports jax."""
