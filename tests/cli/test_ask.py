"""asu-lora ask: base and base + adapter side by side, once or in a loop."""

import json
import re
import shutil

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import asu_lora
from asu_lora.cli import main
from tests.support.tiny_run import tiny_request, tiny_settings


@pytest.fixture(scope="module")
def store(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    asu_lora.forget(tiny_request(), str(tiny_base), tiny_settings(epochs=1), name="mine", store=folder)
    return folder


def ask(tiny_base, store, *words, **options):
    return CliRunner().invoke(
        main,
        ["ask", *words, "--base", str(tiny_base), "--store", str(store), "--precision", "fp32", "--device", "cpu"],
        **options,
    )


def test_both_answers_as_json(tiny_base, store):
    result = ask(tiny_base, store, "Who is it?", "--adapter", "mine", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["question"] == "Who is it?"
    stack = asu_lora.load(str(tiny_base), ["mine"], store, "fp32", "cpu")
    assert said["adapters"] == stack.ask(["Who is it?"])[0]
    with stack.without_adapters():
        assert said["base"] == stack.ask(["Who is it?"])[0]


def test_the_columns_name_what_answered(tiny_base, store):
    result = ask(tiny_base, store, "Who is it?", "--adapter", "mine:0.5")
    assert result.exit_code == 0, result.output
    assert "base" in result.stdout and "mine:0.5" in result.stdout


def test_the_loop_ends_at_an_empty_line(tiny_base, store):
    result = ask(tiny_base, store, "--json", input="Who?\nWhere?\n\nNever asked?\n")
    assert result.exit_code == 0, result.output
    assert [word in result.stdout for word in ('"Who?"', '"Where?"', "Never")] == [True, True, False]


def test_questions_of_a_windows_file_are_asked_as_they_are(tiny_base, store):
    result = ask(tiny_base, store, "--json", input="\ufeffWho wrote it?\r\nWhere?\r\n\r\nNever\r\n")
    assert [json.loads(said)["question"] for said in objects(result.stdout)] == ["Who wrote it?", "Where?"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_questions_in_another_encoding_are_refused_in_a_sentence(tiny_base, store, encoding):
    result = ask(tiny_base, store, "--json", input="Who wrote Émile?\n".encode(encoding))
    assert result.exit_code == 2 and "save it as UTF-8" in " ".join(result.stderr.split()), result.output


def objects(text: str) -> list[str]:
    """The JSON objects that stand one behind another."""
    return [f"{{{part}}}" for part in re.findall(r"^{(.*?)^}", text, re.DOTALL | re.MULTILINE)]


def test_answers_to_questions_through_a_pipe_say_which_they_answer(tiny_base, store):
    result = ask(tiny_base, store, input="Who [bold] is it?\nWhere?\n")
    assert result.exit_code == 0 and result.stdout.index("> Who [bold] is it?\n") < result.stdout.index("> Where?\n")
    assert ">" not in result.stderr and "empty line" not in result.stderr  # nobody types


def test_an_unknown_adapter_is_one_sentence(tiny_base, store):
    result = ask(tiny_base, store, "Who?", "--adapter", "minne")
    assert result.exit_code == 2
    assert "minne" in result.stderr and "mine" in result.stderr and "Traceback" not in result.stderr


def test_an_empty_question_is_refused(tiny_base, store):
    assert ask(tiny_base, store, "  ").exit_code == 2


def test_a_question_longer_than_the_limit_is_still_answered_and_a_cut_is_said(tiny_base, store):
    result = ask(tiny_base, store, "Who? " * 60, "--json")
    assert result.exit_code == 0, result.output
    assert "an answer was cut off, at 200 tokens with its question or 100 without" in result.stderr
    assert json.loads(result.stdout)["cut_off"] == ["base"]


def test_a_base_whose_weights_hold_nan_is_refused_and_says_no_gibberish(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "nan")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    result = ask(base, tmp_path, "Who?")
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: The logits of LlamaForCausalLM are not finite: ")
