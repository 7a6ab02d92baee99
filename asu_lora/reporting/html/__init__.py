"""Pages that stand alone: one file, no network, no script needed; figures are SVG in the page."""
