"""4-bit merges that still forget: rounding chosen by the inputs, and an adapter for what is lost."""
