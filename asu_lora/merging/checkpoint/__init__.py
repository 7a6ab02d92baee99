"""A checkpoint on disk: which files it has, one tensor read or written at a time."""
