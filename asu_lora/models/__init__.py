"""A base in memory: loading, its decoder and head, adapters on it, hidden states and answers out of it."""
