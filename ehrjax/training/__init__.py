"""L3: state, optimizer, step and loop."""
