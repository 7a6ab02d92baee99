"""Which words a smoothed teacher loses, at which tau, in which layers."""
