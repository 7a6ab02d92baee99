"""Huge pages: asked for before torch takes memory, where the system gives them, and not against a user's word."""

import os
import subprocess
import sys

import pytest

from asu_lora.hardware.huge_pages import SYSTEM, VARIABLE, use_huge_pages


@pytest.mark.parametrize(
    "system, given, then",
    [
        ("always [madvise] never", None, "1"),
        ("[always] madvise never", None, "1"),
        ("always madvise [never]", None, None),
        (None, None, None),
        ("always [madvise] never", "0", "0"),
    ],
)
def test_they_are_asked_for_where_there_are_any(tmp_path, monkeypatch, system, given, then):
    if system:
        (tmp_path / "enabled").write_text(system)
    monkeypatch.setenv(VARIABLE, given or "")
    if given is None:
        monkeypatch.delenv(VARIABLE)
    use_huge_pages(tmp_path / "enabled")
    assert os.environ.get(VARIABLE) == then


def test_a_command_gets_them():
    """What torch allocates after the library was imported lies in huge pages."""
    if not SYSTEM.is_file() or "[never]" in SYSTEM.read_text():
        pytest.skip("this system gives no huge pages")
    program = (
        "import asu_lora.cli, asu_lora.models.loading, torch\n"
        "numbers = torch.ones(32 << 20)\n"
        "lines = open('/proc/self/smaps_rollup').read().splitlines()\n"
        "print(next(line.split()[1] for line in lines if line.startswith('AnonHugePages')))\n"
    )
    huge = {}
    for asked in ("1", "0"):
        environment = {**os.environ, VARIABLE: asked} if asked == "0" else dict(os.environ)
        if asked == "1":
            environment.pop(VARIABLE, None)
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        huge[asked] = int(done.stdout.split()[-1])
    assert huge["1"] > 64 << 10  # KB of 128 MB; what the kernel has at hand may be less than all
    if "[madvise]" in SYSTEM.read_text():
        assert huge["0"] < huge["1"]
