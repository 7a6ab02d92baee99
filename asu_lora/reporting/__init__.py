"""Results for people: tables, files, the style of figures."""
