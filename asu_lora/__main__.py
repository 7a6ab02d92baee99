"""``python -m asu_lora``: the same program as ``asu-lora``."""

from asu_lora.cli import main

if __name__ == "__main__":
    main(prog_name="asu-lora")
