"""Every benchmark starts: its imports are there, and its help says what it does."""

import runpy

import pytest

from tests.support.root import ROOT

BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = [
    *sorted(BENCHMARKS.glob("*.py")),
    *(BENCHMARKS / "common" / f"{name}.py" for name in ("gemma_like", "shaped_base", "tofu_request")),
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_says_what_it_does(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr("sys.argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"python benchmarks/{script.relative_to(BENCHMARKS)}" in shown
