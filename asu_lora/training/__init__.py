"""Training the adapter: the student, the Trainer beneath it, its checkpoints, its own answers."""
