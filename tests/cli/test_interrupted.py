"""Ctrl-C ends a command wherever it is heard."""

import subprocess
import sys

COMMAND = """
import os, signal, time
import click

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with it ignored

class Lock:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

@click.command()
def wait():
    Lock()
    for _ in range(100):
        time.sleep(0.05)
    print("went on")
"""
PROGRAM = "from asu_lora.cli.program import Program; Program(commands_from={'wait': 'waiting:wait'})()"


def test_in_a_destructor_where_python_lets_no_error_through(tmp_path):
    (tmp_path / "waiting.py").write_text(COMMAND)
    inside = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {PROGRAM}"
    done = subprocess.run([sys.executable, "-c", inside, "wait"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, ""), done
    assert done.stderr == "Interrupted: the store holds whole adapters only.\n"
