"""Losses of what must stay, one a file, named as ``--retain-loss`` names them."""
