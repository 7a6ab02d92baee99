"""Every method of the paper's table on one base and one request: runs, tables, and which is best."""

VARIED = ("objective", "retain_loss", "lr", "eval_rows")  # settings that a comparison makes itself, row by row
