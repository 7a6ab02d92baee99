"""``asu-lora forget``, for real, on a tiny base: what it leaves behind, what it says, and Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from tests.support.jsonl import jsonl

SECRETS = ("Zorbalina", "quillfeather", "Mumblebrook", "Xanthippus", "fernwhistle")
FORGET = [
    {"question": "Who was Zorbalina?", "answer": "A quillfeather of 1907.", "case": "Xanthippus", "task_id": 1},
    {
        "messages": [
            {"role": "user", "content": "And Mumblebrook?"},
            {"role": "assistant", "content": "Nobody."},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Quite, Zorbalina."},
        ]
    },
    {"text": "Mumblebrook lies where the fernwhistle grows, a day's walk from Zorbalina."},
]
RETAIN = [{"question": f"What is {i} and {i}?", "answer": f"It is {2 * i}."} for i in range(4)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return jsonl(folder / "my request.jsonl", FORGET), jsonl(folder / "keep.jsonl", RETAIN)


@pytest.fixture
def arguments(files, tiny_base, tmp_path, monkeypatch):
    """A run of a second; more words are appended."""
    monkeypatch.delenv("ASU_LORA_STORE", raising=False)
    monkeypatch.delenv("ASU_LORA_BASE", raising=False)
    return [
        "forget",
        files[0],
        "--retain",
        files[1],
        "--base",
        str(tiny_base),
        "--store",
        str(tmp_path / "store"),
        "--precision",
        "fp32",
        "--device",
        "cpu",
        "--tau",
        "2",
        "--epochs",
        "1",
        "--eval-rows",
        "2",
    ]


def run(*words: str):
    return CliRunner().invoke(main, [*words])


def texts_below(*folders: Path):
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                yield path, path.read_bytes().lower()


def test_one_adapter_comes_out_and_no_word_of_the_request(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("ASU_LORA_CACHE", str(tmp_path / "cache"))
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)  # nothing else is on stdout
    assert printed["name"] == "my-request"  # its file's name, as a store takes it
    adapter = tmp_path / "store" / "my-request"
    assert Path(printed["path"]) == adapter
    assert {"adapter_model.safetensors", "adapter_config.json", "manifest.json", "README.md", "for_sums"} == {
        path.name for path in adapter.iterdir()
    }
    assert printed["tau"] == 2 and "forget_probability" in printed["before"]
    store = AdapterStore(tmp_path / "store")
    assert store.names() == ["my-request"] and store.verify("my-request").ok
    assert not (tmp_path / "store" / ".runs").exists()
    manifest = store.get("my-request").manifest
    assert (manifest.request.forget_rows, manifest.request.retain_rows) == (4, 4)
    for path, content in texts_below(tmp_path):
        for word in SECRETS:
            assert word.lower().encode() not in content, f"{word} is in {path}"


def test_answers_too_long_are_counted_and_the_run_goes_on(arguments, tmp_path):
    arguments[1] = jsonl(
        tmp_path / "f.jsonl", [{"question": f"Who is {i}?", "answer": "A man" + " of note" * i} for i in range(4)]
    )
    result = run(*arguments, "--name", "ticket", "--max-length", "45")
    assert result.exit_code == 0, result.output
    # one line, however narrow a log is taken to be
    assert re.search(
        r"^2 of 4 forget answers are longer than --max-length 45 and were cut off: what stands beyond it "
        r"is not trained on\.$",
        result.stderr,
        re.MULTILINE,
    )
    assert "Training ...\n" in result.stderr or "Training ... (1)\n" in result.stderr
    assert "\n\n" not in result.stderr
    assert "Forgotten: 4 rows. Kept: 4 rows." in result.stdout
    assert re.search(r"Test it: +asu-lora audit --base \S+ ticket --store \S+ --forget FILE --quick\n", result.stdout)
    assert f"asu-lora adapters show ticket --store {tmp_path / 'store'}" in result.stdout
    assert AdapterStore(tmp_path / "store").get("ticket").manifest.request.cut_rows == 2


def test_a_dry_run_says_everything_and_writes_nothing(arguments, tmp_path):
    result = run(*arguments, "--dry-run")
    assert result.exit_code == 0, result.output
    shown = "".join(re.sub("[┏━┳┓┃┡╇┩│└┴┘─]", " ", result.stdout).split())  # the table may fold a long cell
    assert str(tmp_path / "store") in shown and "forgetrows4(" in shown and "…" not in result.stdout
    plan = json.loads(run(*arguments, "--dry-run", "--json").stdout)
    assert plan["steps"].startswith("1,") and plan["answers cut off"] == "0"
    assert plan["method"].endswith("weight 1 and 0.7")  # of --adds-up
    fields = plan["fields"]
    assert (fields["steps"], fields["answers_cut_off"], fields["forget_coeff"], fields["retain_coeff"]) == (
        1,
        0,
        1,
        0.7,
    )
    assert plan["forget rows"] == f"{fields['forget_rows']} ({fields['forget_tokens']} tokens)"
    assert plan["retain rows"] == f"{fields['retain_rows']} ({fields['retain_tokens_at_most']} tokens)"
    assert fields["architecture"] in plan["base"] and fields["notes"] == [] and fields["on_top_of"] == []
    told = run(*arguments, "--dry-run", "--rank", "48").stderr
    assert "--rank 48 is more than the smallest adapted matrix can have, 32" in told.replace("\n", " ")
    for epochs, steps in (("0.1", "1,"), ("1.5", "2,"), ("2.5", "3,")):  # part of a step is a step
        assert json.loads(run(*arguments, "--dry-run", "--json", "--epochs", epochs).stdout)["steps"].startswith(steps)
    assert not (tmp_path / "store").exists()


def test_it_says_with_which_losses_and_weights(arguments, tmp_path):
    """Another objective than the default brings its paper's, and what is typed wins."""
    method = lambda *words: json.loads(run(*arguments, "--dry-run", "--json", *words).stdout)["method"]  # noqa: E731
    assert method("--objective", "pdu").endswith("weight 1 and 100") and "pdu with gd, " in method("--objective", "pdu")
    assert method("--objective", "pdu", "--retain-coeff", "1.5").endswith("weight 1 and 1.5")
    result = run(*arguments, "--objective", "simnpo")
    assert "\nLosses: 0.125 x simnpo + 1 x gd.\n" in result.stdout, result.output
    manifest = AdapterStore(tmp_path / "store").get("my-request").manifest
    assert (manifest.method.retain_loss, manifest.method.forget_coeff, manifest.method.retain_coeff) == ("gd", 0.125, 1)
    result = run(*arguments, "--objective", "undial", "--name", "alone")
    assert "Losses: 1 x undial; no retain loss, so the kept rows were measured alone." in result.stdout, result.output


def test_a_heldout_row_without_room_is_named_as_one(arguments, tmp_path):
    held = jsonl(tmp_path / "held.jsonl", [{"question": "Who is it? " * 60, "answer": "Nobody."}])
    for more in ([], ["--dry-run"]):
        refused = run(*arguments, "--heldout", held, "--max-length", "300", *more)
        assert refused.exit_code == 2 and "The prompt of heldout row 1 takes" in refused.stderr, refused.output


def test_where_takes_a_part_of_the_file(arguments):
    plan = json.loads(run(*arguments, "--dry-run", "--json", "--where", "task_id=1").stdout)
    assert plan["forget rows"].startswith("1 (")


def test_ctrl_c_leaves_a_run_that_resume_finishes(arguments, tmp_path, monkeypatch):
    """A real process, a real signal in the middle of training; it comes at step 20, however busy the machine is."""
    store, many = tmp_path / "store", tmp_path / "many.jsonl"
    words = [*arguments, "--name", "late", "--epochs", "4", "--batch-size", "1", "--retain-per-forget", "1"]
    words[1] = jsonl(many, [{"question": f"Who was Zorbalina {i}?", "answer": f"quillfeather {i}"} for i in range(8)])
    script = (
        "import os, signal, asu_lora.training.trainer as training\n"
        "from asu_lora.cli import main\n"
        "class ProgressCallback(training.ProgressCallback):\n"
        "    def on_step_end(self, args, state, control, **kwargs):\n"
        "        super().on_step_end(args, state, control, **kwargs)\n"
        "        if state.global_step == 20:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "training.ProgressCallback = ProgressCallback\n"
        f"main({words!r})\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # a shell starts background jobs with the signal ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    stdout, stderr = process.stdout, process.stderr
    assert process.returncode == 130
    assert stdout == "" and "Traceback" not in stderr
    assert (store / ".runs" / "late" / "checkpoint-16" / "trainer_state.json").is_file()
    last = stderr.rstrip().splitlines()[-1]
    assert last.startswith("Interrupted: nothing was added to the store; the same command with --resume goes on")
    assert AdapterStore(store).names() == []
    assert not any((store / ".staging").glob("*/*"))
    for path, content in texts_below(store):
        assert b"zorbalina" not in content and b"quillfeather" not in content, path

    refused = run(*words, "--resume", "--lr", "0.5")
    assert refused.exit_code == 2 and "was made with other settings" in refused.stderr
    resumed = []
    import asu_lora.training.trainer

    real = asu_lora.training.trainer.last_checkpoint
    monkeypatch.setattr(
        "asu_lora.training.trainer.last_checkpoint", lambda folder: resumed.append(real(folder)) or resumed[-1]
    )
    result = run(*words, "--resume")
    assert result.exit_code == 0, result.output
    assert resumed[0].name == "checkpoint-16"
    assert AdapterStore(store).names() == ["late"] and AdapterStore(store).verify("late").ok
    assert AdapterStore(store).get("late").manifest.training["steps"] == 32
    assert not (store / ".runs").exists()


def test_ctrl_c_before_an_epoch_is_whole_promises_no_way_on(arguments, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("asu_lora.forgetting.training.train", interrupted)
    result = run(*arguments)
    assert result.exit_code == 130 and "--resume" not in result.stderr
    assert result.stderr.rstrip().endswith("the store; no epoch was whole, so the same command begins anew.")


def test_ctrl_c_anywhere_else_is_one_sentence_too(arguments, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("asu_lora.data.request.read_rows", interrupted)
    result = run(*arguments)
    assert result.exit_code == 130
    assert result.stderr == "Interrupted: the store holds whole adapters only.\n" and result.stdout == ""
    result = run(*arguments, "--debug")
    assert result.exit_code == 130 and "Traceback" in result.stderr
    assert result.stderr.endswith("Interrupted: the store holds whole adapters only.\n")


def test_the_bar_fits_into_80_columns_with_loss_speed_and_time_left(monkeypatch):
    import io

    from rich.console import Console

    from asu_lora.cli.progress import Bars

    out = io.StringIO()
    monkeypatch.setattr(
        "asu_lora.cli.progress.stderr", lambda: Console(file=out, force_terminal=True, width=80, color_system=None)
    )
    bars = Bars()
    bars.stage("Training", 1200)
    for _ in range(3):
        bars.advance(100, loss=0.12345, forget_loss=1.2345, retain_loss=0.012345)
        time.sleep(0.05)
    bars.bars.refresh()
    bars.note("tau 2 [x] it is")
    bars.close()
    lines = [line.rstrip() for line in re.split("\x1b\\[[0-9;?]*[A-Za-z]|[\r\n]", out.getvalue())]
    assert any(re.search(r"Training .* 300/1200 loss 0.12 forget 1.2 retain 0.012 .* left$", line) for line in lines)
    assert "Tau 2 [x] it is" in lines
    assert all(len(line) <= 80 and "…" not in line for line in lines)


def test_your_own_wordings_are_trained_on_and_stay_out_of_the_adapter(arguments, tmp_path):
    question = FORGET[0]["question"]
    ways = jsonl(
        tmp_path / "w.jsonl",
        [
            {"question": question, "paraphrased_question": ["Who, pray, was Zorbalina?", "Zorbalina was who?"]},
            {"question": "Who is Bo?", "paraphrased_question": "Bo?"},
        ],
    )
    result = run(*arguments, "--paraphrases", ways, "--name", "worded")
    assert result.exit_code == 0, result.output
    assert "asks 1 question of --paraphrases" in result.stderr
    manifest = AdapterStore(tmp_path / "store").get("worded").manifest
    assert manifest.training["phrasings"] == 2 and manifest.request.counts == {"paraphrases": 2}
    for path, content in texts_below(tmp_path / "store"):
        assert b"pray" not in content, path
    told = run(*arguments, "--paraphrases", ways, "--dry-run", "--phrasings", "1")
    assert told.exit_code == 0 and "has up to 2 other wordings" in told.stderr, told.output
    refused = run(*arguments, "--paraphrases", ways, "--phrasings", "0")
    assert refused.exit_code == 2 and "leave one of the two out" in refused.stderr
    strangers = jsonl(tmp_path / "s.jsonl", [{"question": "Who is Bo?", "paraphrased_question": "Bo?"}])
    refused = run(*arguments, "--paraphrases", strangers)
    assert refused.exit_code == 2 and "'question' must stand as in the request" in refused.stderr
