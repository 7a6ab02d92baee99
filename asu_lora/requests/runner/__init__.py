"""How what is due is worked through: one request from claim to text, the order of a run, what follows it."""
