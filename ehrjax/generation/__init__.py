"""L4 below the verbs, device world: futures sampled from a causal model, and the risks that they show."""
