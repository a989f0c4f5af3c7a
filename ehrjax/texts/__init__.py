"""L3: clinical notes as vectors, by frozen text encoders."""
