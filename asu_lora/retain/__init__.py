"""Which rows are kept beside a request: chosen from a pool, and looked at for how near they are."""
