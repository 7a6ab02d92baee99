"""Every method of the paper's table on one base and one request: runs, tables, and which is best."""

# settings that a comparison makes itself, row by row
VARIED = ("objective", "retain_loss", "loss_settings", "lr", "eval_rows")
