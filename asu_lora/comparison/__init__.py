"""Every method of the paper's table on one base and one request: runs, tables, and which is best."""
