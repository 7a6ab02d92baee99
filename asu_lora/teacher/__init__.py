"""The forget-teacher: the frozen base with its attention softmax heated, and the targets it writes."""
