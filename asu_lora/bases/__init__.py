"""Which checkpoint a base is: a hub id, a folder, or the embedded SmolLM2."""
