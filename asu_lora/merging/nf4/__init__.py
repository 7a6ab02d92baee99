"""NF4 weights: as bitsandbytes makes them, and the grid their codes stand for."""
