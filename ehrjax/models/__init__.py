"""L1, device world: Flax Linen modules. One model a file; a model is found by its module's name."""
