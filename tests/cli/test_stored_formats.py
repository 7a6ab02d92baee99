"""Bases that are stored in 8 bit or in FP4: what is said of them, and what is offered to be typed next."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from asu_lora.cli import main

FORMATS = {"int8": {"load_in_8bit": True}, "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}}


@pytest.fixture(params=FORMATS)
def trained(request, tiny_base, tmp_path, monkeypatch):
    """A base in this format, and what ``forget`` said on it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASU_LORA_STORE", raising=False)
    shutil.copytree(tiny_base, "base", ignore=shutil.ignore_patterns("model.safetensors"))
    quantised = AutoModelForCausalLM.from_pretrained(
        tiny_base, quantization_config=BitsAndBytesConfig(**FORMATS[request.param]), device_map={"": "cpu"}
    )
    quantised.save_pretrained("base")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Who was Zorbalina?", "answer": "A singer."}) + "\n")
    words = ["forget", "rows.jsonl", "--base", "base", "--device", "cpu", "--tau", "2", "--epochs", "1"]
    done = CliRunner().invoke(main, [*words, "--eval-rows", "0"])
    assert done.exit_code == 0, done.output
    return request.param, done.stdout


def test_a_merge_is_offered_where_it_can_be_made_and_says_what_it_wrote(trained):
    kind, said = trained
    assert ("Merge it: " in said) == (kind != "int8")
    merged = CliRunner().invoke(main, ["merge", "--base", "base", "-a", "rows", "-o", "out", "-p", "nf4"])
    if kind == "int8":
        assert merged.exit_code == 2 and "serve the adapter beside it, or train one on the original" in merged.stderr
        return
    assert merged.exit_code == 0, merged.output
    config = json.loads(Path("out/config.json").read_text())
    assert config["quantization_config"]["bnb_4bit_quant_type"] == "fp4"
    assert "base + rows -> out: fp4, " in merged.stdout and "as FP4 shows them" in merged.stdout
    again = CliRunner().invoke(main, ["merge", "--base", "base", "-a", "rows", "-o", "again", "--json"])
    assert json.loads(again.stdout)["written_as"] == "bf16"
