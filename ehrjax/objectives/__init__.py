"""L2, device world: what a model is trained for. One objective a file, found by its module's name."""
