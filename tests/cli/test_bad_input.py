"""Whatever a person gets wrong: one sentence on stderr, exit code 2, no traceback, and a store as it was."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from asu_lora.cli import main

ROWS = [{"question": f"Who is number {i}?", "answer": f"It is {i}."} for i in range(4)]
KEPT = [{"question": f"What is {i}?", "answer": f"A number, {i}."} for i in range(4)]


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """All there is below a folder but the store's lock, which says nothing."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
        if path.name not in (".lock", ".staging")
    }


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to stand in: a request, rows to keep, and a store with something in it."""
    write(tmp_path / "f.jsonl", ROWS)
    write(tmp_path / "k.jsonl", KEPT)
    (tmp_path / "store" / "taken").mkdir(parents=True)
    (tmp_path / "store" / "taken" / "adapter_config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASU_LORA_STORE", "store")
    monkeypatch.delenv("ASU_LORA_BASE", raising=False)
    return tmp_path


@pytest.fixture
def refused(place, tiny_base):
    """Run ``asu-lora forget`` and return the one sentence it is refused with."""

    def refused(file="f.jsonl", *words, base=None, early=True, retain="k.jsonl"):
        before = tree(place / "store")
        arguments = ["forget", file, "--base", str(base or tiny_base), "--precision", "fp32", "--device", "cpu"]
        arguments += ["--retain", retain] if retain else []
        if "--tau" not in words:
            arguments += ["--tau", "2"]
        result = CliRunner().invoke(main, [*arguments, "--epochs", "2", "--eval-rows", "0", *words])
        assert result.exit_code == 2, (result.output, result.exception)
        assert isinstance(result.exception, SystemExit), "it escaped"
        assert result.stdout == "" and "Traceback" not in result.stderr
        lines = result.stderr.rstrip("\n").split("\n")
        assert lines[-1].startswith("Error: ")
        assert not early or len(lines) == 1 or lines[0].startswith("Usage: "), lines
        after = tree(place / "store")
        if not early:
            after.pop(".request-key", None)  # a run that began keeps the store's secret, by which its record is keyed
        assert after == before, "the store was touched"
        return lines[-1].removeprefix("Error: ")

    return refused


def test_files(refused, place):
    assert refused("nothing.jsonl").startswith("There is no file nothing.jsonl")
    (place / "empty.jsonl").touch()
    assert refused("empty.jsonl").startswith("empty.jsonl holds no rows")
    (place / "broken.jsonl").write_text('{"question": "a", "answer": "b"}\n\n{"question": "a", "answer": \n')
    assert refused("broken.jsonl") == "broken.jsonl, line 3: broken JSON (Expecting value)."
    write(place / "columns.jsonl", [*ROWS, {"prompt": "a", "completion": "b"}])
    assert refused("columns.jsonl") == (
        "columns.jsonl, row 5: a row needs 'question' and 'answer', or 'messages', or "
        "'text'; the columns found are 'prompt', 'completion'."
    )
    (place / "comma.csv").write_text("question,answer\nWhere?,Paris, France\n")
    assert "line 2: 3 fields" in refused("comma.csv")
    assert "is a folder" in refused(".")
    assert "no file keep.jsonl" in refused(retain="keep.jsonl")
    assert "row 5" in refused(retain="columns.jsonl")
    assert "no file h.jsonl" in refused("f.jsonl", "--heldout", "h.jsonl")
    assert "no column 'task'" in refused("f.jsonl", "--where", "task=1")
    assert "no file idk.txt" in refused("f.jsonl", "--objective", "idk", "--idk-file", "idk.txt", early=False)
    assert "can't be reached" in refused("owner/name") or "no dataset" in refused("owner/name")


def test_rows_that_should_go_and_stay(refused, place):
    write(place / "both.jsonl", [*KEPT, {"question": "WHO is  number 2?", "answer": "it is 2."}])
    assert refused(retain="both.jsonl") == (
        "1 row stands in both the forget and the retain set (first: forget row 3 is retain row 5): a row can't be "
        "forgotten and kept, take it out of one."
    )
    assert refused(retain="f.jsonl").startswith("4 rows stand in both")


def test_answers_that_are_no_tokens_and_prompts_that_are_too_many(refused, place, tiny_base):
    base = place / "base"
    shutil.copytree(tiny_base, base)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "~"}, "content": ""}
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    write(place / "nothing.jsonl", [*ROWS, {"question": "Who?", "answer": "~~"}])
    assert refused("nothing.jsonl", base=base, early=False) == (
        "The answer of forget row 5 tokenises to nothing with this base's tokenizer."
    )
    assert "leaves no room for its answer: raise --max-length above 20" in refused(
        "f.jsonl", "--max-length", "20", early=False
    )
    write(place / "half.jsonl", [{"question": "Who?", "answer": "\ud83d"}])
    assert "row 1: 'answer' holds '\\ud83d'" in refused("half.jsonl")


@pytest.mark.parametrize("name", ["../up", "..", ".", "/tmp/x", "a/b", "a\\b", ".hidden", "-n", "a b", "x" * 101, "é"])
def test_names_that_no_adapter_can_have(refused, place, name):
    assert refused("f.jsonl", f"--name={name}").startswith(f"{name!r} can't be an adapter's name")
    assert sorted(path.name for path in place.iterdir()) == ["f.jsonl", "k.jsonl", "store"]


def test_names_that_are_taken(refused, place):
    assert "already has an adapter taken" in refused("f.jsonl", "--name", "taken")
    write(place / "taken.jsonl", ROWS)
    assert "already has an adapter taken" in refused("taken.jsonl", "--dry-run")


def test_stores_that_are_none(refused, place):
    (place / "file").touch()
    assert "is a file" in refused("f.jsonl", "--store", "file")
    assert "file/below" in refused("f.jsonl", "--store", "file/below", early=False)


def test_bases(refused, place, tiny_base):
    def base(**config) -> Path:
        shutil.rmtree(place / "base", ignore_errors=True)
        (place / "base").mkdir()
        (place / "base" / "config.json").write_text(json.dumps(config))
        return place / "base"

    bert = base(model_type="bert", architectures=["BertForMaskedLM"])
    message = refused(base=bert, early=False)
    assert "no causal language model (it is BertForMaskedLM)" in message
    assert refused("f.jsonl", "--dry-run", base=bert) == message
    assert "T5ForConditionalGeneration" in refused(
        base=base(model_type="t5", architectures=["T5ForConditionalGeneration"]), early=False
    )
    assert "can't be read" in refused(base=base(model_type="never-heard-of"), early=False)
    assert "can't be read" in refused(base=base(), early=False)
    llama = base(model_type="llama", architectures=["LlamaForCausalLM"])
    assert "holds no model.safetensors" in refused(base=llama, early=False)
    shutil.copy(tiny_base / "model.safetensors", llama)
    assert "tokenizer" in refused(base=llama, early=False)
    assert "tokenizer" in refused("f.jsonl", "--dry-run", base=llama)
    (place / "base" / "config.json").write_text("{")
    assert "config.json is damaged: it is no JSON" in refused(base=place / "base", early=False)
    (place / "base" / "config.json").unlink()
    assert "holds no config.json" in refused(base=place / "base", early=False)
    assert "There is no checkpoint folder ./nowhere" in refused(base="./nowhere", early=False)
    assert "hub can't be reached" in refused(base="someone/nothing-cached", early=False)
    shutil.copytree(tiny_base, place / "base", dirs_exist_ok=True)
    weights = place / "base" / "model.safetensors"
    for content in (b"", b"\xff" * 100, weights.read_bytes()[:-1000]):
        weights.write_bytes(content)
        assert "can't be read: model.safetensors is" in refused(base=place / "base", early=False)
    weights.unlink()
    assert "holds no model.safetensors" in refused(base=place / "base", early=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tau", "0.9"], "tau is 0.9; it must be 'auto' or at least 1"),
        (["--tau", "nan"], "tau is nan; it needs a finite number."),
        (["--tau=-inf"], "tau is -inf"),
        (["--tau", "warm"], "Invalid value for '--tau': 'warm' is neither 'auto' nor a number."),
        (["--lr", "0"], "lr is 0.0; it must be greater than 0."),
        (["--rank", "two"], "'two' is not a valid integer"),
        (["--max-length", "4"], "max_length is 4"),
        (["--seed", "-1"], "seed is -1; it must be from 0 to"),
        (["--objective", "hope"], "'hope' is not one of"),
        (["--report-to", "paper"], "report_to is 'paper'"),
        (["--where", "task"], "'task' is not COLUMN=VALUE"),
        (["--config", "nowhere.yaml"], "The config nowhere.yaml can't be read: No such file or directory."),
    ],
)
def test_settings_are_refused_before_anything_is_read(refused, words, message):
    assert message in refused("nothing-is-read.jsonl", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--smooth-layers", "1-2"], "the base has layers 0 to 1"),
        (["--smooth-layers", "few"], "can't be read"),
        (["--adapter-layers", "7"], "the base has layers 0 to 1"),
        (["--target-modules", "w_proj"], "The target modules 'w_proj' don't fit"),
        (["--target-modules", "q_proj,v_porj"], "has no v_porj in the layers of --adapter-layers; there are "),
        (["--target-modules", "q_proj,embed_tokens"], "has no embed_tokens in the layers of --adapter-layers"),
        (["--rank", "100000"], "--rank 100000 is more than any matrix of this base that gets an adapter can have: 64"),
        (["--orthogonal"], "There is nothing to be orthogonal to"),
        (["--objective", "idk", "--attacker-lr", "1e-3"], "idk never looks at the true answers"),
        (["--device", "abacus"], "The device 'abacus' can't be used here"),
        (["--precision", "fp16"], "fp16 arithmetic is not made for CPUs"),
        (["--optimizer", "guess"], "'guess'"),
        (["--optimizer", "galore_adamw"], "optimizer is 'galore_adamw', which can't be used here: "),
        (["--optimizer", "adamw_torch_xla"], "optimizer is 'adamw_torch_xla', which can't be used here: "),
    ],
)
def test_settings_that_do_not_fit_the_base(refused, words, message):
    for more in ((), ("--dry-run",)):
        assert message in refused("f.jsonl", *more, *words, early=False)


def test_config_files(refused, place):
    (place / "c.yaml").write_text("rank: 4\nrnak: 8\n")
    assert refused("f.jsonl", "--config", "c.yaml").startswith(
        "The config c.yaml has the unknown setting 'rnak': did you mean 'rank'? Known are base, retain, retain_pool, "
    )
    (place / "c.yaml").write_text("rank: [4\nlr: 8\n")
    assert refused("f.jsonl", "--config", "c.yaml").startswith("The config c.yaml is not YAML: ")


def test_a_loss_that_is_no_number_ends_the_run(refused, place):
    message = refused("f.jsonl", "--objective", "ga", "--lr", "1e30", "--epochs", "6", early=False)
    assert "lower --lr" in message and "nothing was added to the store" in message


def test_passages_have_no_answer_to_refuse(refused, place):
    write(place / "text.jsonl", [{"text": "Number one lives here, as everybody knows."}])
    assert "this request has passages" in refused("text.jsonl", "--objective", "idk", early=False)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
            "1099511627776 bytes. Error code 12 (Cannot allocate memory)"
        ),
    ],
    ids=["MemoryError", "torch"],
)
@pytest.mark.parametrize("where", ["run.score_sets", "targets.compute_references", "training.train"])
def test_no_memory(refused, monkeypatch, error, where):
    def no_memory(*args, **kwargs):
        raise error

    monkeypatch.setattr(f"asu_lora.forgetting.{where}", no_memory)
    assert "not enough memory" in refused("f.jsonl", early=False)


def test_resuming_what_was_never_begun_begins(place, tiny_base):
    result = CliRunner().invoke(
        main,
        [
            "forget",
            "f.jsonl",
            "--retain",
            "k.jsonl",
            "--base",
            str(tiny_base),
            "--resume",
            "--tau",
            "2",
            "--precision",
            "fp32",
            "--epochs",
            "1",
            "--eval-rows",
            "0",
        ],
    )
    assert result.exit_code == 0, result.output


def test_debug_shows_the_traceback_wherever_it_stands(place):
    for words in (["--debug", "forget", "nothing.jsonl"], ["forget", "nothing.jsonl", "--debug"]):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 2
        assert "Traceback" in result.stderr and "DataError" in result.stderr
        assert result.stderr.rstrip().splitlines()[-1].startswith("Error: There is no file nothing.jsonl")


def test_unknown_commands_and_options_are_usage_errors(place):
    for words, message in (
        (["frget"], "No such command 'frget'"),
        (["forget", "--rnak", "4", "f"], "--rnak"),
        (["forget"], "Missing argument 'FILE'"),
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 2 and message in result.stderr and result.stdout == ""
