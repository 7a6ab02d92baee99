"""Adapters that are to be active together: whether their sum keeps what each of them keeps."""
