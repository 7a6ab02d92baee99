"""Nothing that a request says lands in a file that a study writes: texts, names of files, values of columns."""

import json

import pytest
from click.testing import CliRunner

from asu_lora.cli import main
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import DataError, TrainingError
from asu_lora.studies.privacy import Privacy
from tests.support.tiny_run import FACTS, rows

SECRETS = ("Zelda", "Quist", "xylophone", "Quagmire", "kumquat", "wombat", "ocarina", "Vexford")
FORGET = [
    {
        "question": f"What does Zelda Quist hoard in room {number}?",
        "answer": f"Zelda Quist hoards xylophone number {number}.",
        "paraphrased_answer": "A kumquat, says Quagmire.",
        "perturbed_answer": ["A wombat.", "An ocarina."],
        "original_answer": "Zelda Quist of Vexford.",
        "spans": ["xylophone"],
        "person": "Zelda Quist",
        "Vexford": {"ocarina": ["wombat"]},
    }
    for number in range(4)
]


def write(path, content):
    path.write_text("\n".join(map(json.dumps, content)), encoding="utf-8")
    return str(path)


@pytest.fixture
def request_files(tmp_path):
    """A request whose rows, file and columns all tell who it is about, with a span that no answer holds."""
    folder = tmp_path / "Vexford"
    folder.mkdir()
    forget = [FORGET[0] | {"spans": ["kumquat of Quagmire"]}, *FORGET[1:]]
    retain = [row | {"note": "wombat", "perturbed_answer": ["An ocarina."]} for row in rows(FACTS[:4])]
    (folder / "Quagmire.txt").write_text("I don't know of any kumquat.\n")
    return write(folder / "Zelda Quist.jsonl", forget), write(folder / "wombat.jsonl", retain)


def told(folder):
    """Every file (and name) below a folder that holds one of the secrets."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        text = (str(path.relative_to(folder)).encode() + b" " + content).lower()
        found += [(path.name, secret) for secret in SECRETS if secret.lower().encode() in text]
    return found


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


MACHINE = ("--precision", "fp32", "--device", "cpu")
TRAINING = ("--rank", "4", "--epochs", "1", "--batch-size", "2", "--warmup", "0")


def test_a_comparison_writes_nothing_of_the_request(taught_base, request_files, tmp_path):
    forget, retain = request_files
    words = [
        *("compare", forget, "--retain", retain, "--where", "person=Zelda Quist", "--base", taught_base, *MACHINE),
        *("--methods", "ASU_KL,IDK_NONE", "--tau", "auto", "--idk-file", tmp_path / "Vexford" / "Quagmire.txt"),
        *("--out", tmp_path / "out", "--questions", "2", *TRAINING),
    ]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "kumquat of Quagmire" in result.output  # the error's own words, on the screen
    everything = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {run["method"]: run["state"] for run in everything["runs"]} == {
        "Base": "done",
        "ASU_KL": "failed",
        "IDK_NONE": "done",
    }
    [failed] = [run["failure"] for run in everything["runs"] if run["state"] == "failed"]
    assert failed.startswith("DataError") and failed in (tmp_path / "out" / "comparison.md").read_text()
    assert everything["command"].startswith("asu-lora compare FILE")
    for part in ("--where COLUMN=VALUE", "--retain FILE", "--methods ASU_KL,IDK_NONE", "--tau auto", "--rank 4"):
        assert part in everything["command"]
    assert told(tmp_path / "out") == []

    # a file that an earlier version wrote is cleaned before its words go into the table
    file = tmp_path / "out" / "runs" / "ASU_KL-lr-0.001.json"
    earlier = json.loads(file.read_text()) | {
        "failure": "Row 1: the answer doesn't hold the text 'kumquat of Quagmire'."
    }
    file.write_text(json.dumps(earlier))
    assert run(*words).exit_code == 0
    assert told(tmp_path / "out") == []


def test_a_history_writes_nothing_of_its_requests(taught_base, tmp_path):
    history = write(tmp_path / "tickets.jsonl", FORGET)
    retain = write(tmp_path / "wombat.jsonl", rows(FACTS[:4]))
    words = [
        *("continual", "--requests", history, "--by", "question", "--steps", "2", "--retain", retain, *MACHINE),
        *("--base", taught_base, "--out", tmp_path / "out", "--questions", "2", "--tau", "2", *TRAINING),
    ]
    result = run(*words, "--take-back", "1")
    assert result.exit_code == 0, result.output
    assert told(tmp_path / "out") == []


def test_a_probe_writes_nothing_of_the_request(taught_base, tmp_path):
    forget = write(tmp_path / "Zelda Quist.jsonl", FORGET)
    result = run(
        *("probe", forget, "--where", "person=Zelda Quist", "--base", taught_base, *MACHINE, "--tau", "2"),
        *("--layers", "all", "--answers", "1", "--out", tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output
    assert told(tmp_path / "out") == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Row 1: 'spans': the answer doesn't hold the text 'a kumquat'.",
        "The model can't say ZELDA  QUIST OF VEXFORD.",
        "It said: hoards xylophone number 2. That is all.",
        'The column "ocarina" can\'t be read.',
        "There is no file /home/tickets/zelda-quist-2024.jsonl.",
    ],
)
def test_a_sentence_that_repeats_the_request_is_known(sentence):
    privacy = Privacy(ForgetRequest.from_rows(FORGET, rows(FACTS), "zelda-quist-2024"))
    assert privacy.tells(sentence)
    assert privacy.error(TrainingError(sentence)).startswith("TrainingError:")


def test_what_helps_without_telling_stays():
    privacy = Privacy(ForgetRequest.from_rows(FORGET, rows(FACTS)))
    said = "The loss is not a number at step 3: give a lower --lr, or clip the gradients."
    assert privacy.error(TrainingError(said)) == said
    assert privacy.error(DataError(said)) != said  # it may quote a row in a way that nobody foresees
