"""Encoded rows into the batches of a training step: padding, packing, pairs, micro-batches."""
