"""Studies made of many runs: compare methods, probe a teacher, forget request after request."""
