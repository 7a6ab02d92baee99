"""Losses of what must go, one a file, named as ``--objective`` names them."""
