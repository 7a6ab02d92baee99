"""Figures for papers and reports, one a file; :mod:`~asu_lora.plots.style` holds what they share."""
