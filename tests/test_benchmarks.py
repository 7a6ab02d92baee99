"""Every benchmark starts: its imports are there, and its help says what it does. What a short stay on a card relies on."""

import html
import json
import re
import runpy
import time

import pytest

from benchmarks.gpu.parts import LIST, join, split
from benchmarks.gpu.record import Record
from benchmarks.terminal_picture import PICTURE, RECORDING, picture
from tests.support.root import ROOT

BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = [
    *sorted(BENCHMARKS.glob("*.py")),
    *(BENCHMARKS / "gpu" / f"{name}.py" for name in ("parts", "run")),
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


def test_weights_in_parts_come_together_again(tmp_path):
    """Sizes around a part's: nothing, one byte less, a whole one, one more, several."""
    base = tmp_path / "base"
    base.mkdir()
    for size in (0, 99, 100, 101, 350):
        (base / f"{size}.bin").write_bytes(bytes(at % 251 for at in range(size)))
    told = split(base, tmp_path / "parts", most=100)
    assert [len(told[f"{size}.bin"]["parts"]) for size in (0, 99, 100, 101, 350)] == [1, 1, 1, 2, 4]
    assert max(file.stat().st_size for file in (tmp_path / "parts").iterdir() if file.name != LIST) == 100
    again = join(tmp_path / "parts", tmp_path / "again")
    assert {f.name: f.read_bytes() for f in again.iterdir()} == {f.name: f.read_bytes() for f in base.iterdir()}
    part = tmp_path / "parts" / told["350.bin"]["parts"][2]
    part.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"350\.bin is not what was cut"):
        join(tmp_path / "parts", tmp_path / "again")
    part.unlink()
    with pytest.raises(ValueError, match="parts lacks"):
        join(tmp_path / "parts", tmp_path / "again")


def test_a_stay_on_a_card_that_is_cut_off_leaves_what_it_has(tmp_path):
    record = Record(tmp_path / "out", minutes=1)
    record.part("machine", lambda: {"device": "a card"})

    def broken():
        raise RuntimeError("no such kernel")

    assert record.part("peak", broken) is None
    assert record.part("whole job", lambda: {"seconds": 1.0}, needs=61) is None
    told = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert told["parts"] == {"machine": {"device": "a card"}}
    assert told["missing"]["peak"] == "RuntimeError: no such kernel" and "61" in told["missing"]["whole job"]
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "- device: a card" in page and "- peak: RuntimeError: no such kernel" in page
    record.deadline = time.monotonic() - 1
    assert record.part("late", lambda: 1) is None and record.left < 0


def test_a_stay_on_a_card_is_tried_on_the_cpu_to_its_end(tmp_path, monkeypatch, capsys):
    """Every part is made, and what is printed last is the short table."""
    script = BENCHMARKS / "gpu" / "run.py"
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(
        "sys.argv", [str(script), "--device", "cpu", "--tiny", "--minutes", "3", "--out", str(tmp_path)]
    )
    runpy.run_path(str(script), run_name="__main__")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["missing"] == {}
    assert found["parts"]["equality"]["equal"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[-len(found["parts"]["steps"]) :]] == [
        step["step"] for step in found["parts"]["steps"]
    ]
    assert lines[-1] == (tmp_path / "gpu.md").read_text().splitlines()[-1]


def test_the_picture_of_the_first_page_is_the_recording():
    recording = RECORDING.read_text(encoding="utf-8")
    drawn, shown = picture(recording), PICTURE.read_text(encoding="utf-8")
    told = [html.unescape("".join(re.findall(r"<text[^>]*>(.*?)</text>", svg))) for svg in (drawn, shown)]
    assert told[0] == told[1]  # rich's numbers may differ from version to version, its text doesn't
    words = re.sub(r"\s+", "", f"$ asu-lora demo{recording}")
    assert words in re.sub(r"\s+", "", told[0])
    assert "docs/images/demo.svg" in (ROOT / "README.md").read_text()
