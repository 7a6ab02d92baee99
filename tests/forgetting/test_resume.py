"""Runs that were interrupted: taken up again bit for bit, refused for another run."""

import json
import resource
import shutil

import pytest
import torch

from asu_lora.data.request import ForgetRequest
from asu_lora.errors import StoreError, TrainingError
from asu_lora.forgetting.forget import forget
from tests.support.adapter_weights import same, weights
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_request, tiny_settings


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.3},
        {"grad_accum": 2, "batch_size": 1},
        {"retain_per_forget": 2, "epochs": 2.5},
        {"attacker_lr": 2e-3, "grad_accum": 2, "batch_size": 1},
    ],
)
def test_resumed_is_bit_identical_to_uninterrupted(base, tmp_path, changes, snapshot):
    settings = tiny_settings(**changes)
    whole = forget(tiny_request(), base, settings, name="whole", store=tmp_path)
    torch.rand(5)
    with pytest.raises(KeyboardInterrupt):  # 3 steps an epoch: in the middle of the second
        forget(tiny_request(), base, settings, name="broken", store=tmp_path, progress=Listener(stop_at=5))
    folder = tmp_path / ".runs" / "broken"
    assert sorted(entry.name for entry in folder.iterdir()) == ["checkpoint-3", "run.json"]
    assert not (tmp_path / "broken").exists()
    torch.rand(11)
    heard = Listener()
    resumed = forget(tiny_request(), base, settings, name="broken", store=tmp_path, resume=True, progress=heard)
    assert len(heard.figures) == whole.record.training["steps"] - 3
    assert same(weights(tmp_path, "whole"), weights(tmp_path, "broken"))
    assert resumed.record.training["train_loss"] == pytest.approx(whole.record.training["train_loss"])
    assert not (tmp_path / ".runs").exists()


@pytest.mark.parametrize(
    "file", ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "attacker.pt"]
)
def test_a_checkpoint_that_can_not_be_read_is_passed_over(base, tmp_path, file, snapshot):
    """A full disk or a power cut leaves half a file behind: the run goes on from the checkpoint before."""
    settings = tiny_settings(attacker_lr=2e-3 if file == "attacker.pt" else 0.0)
    with pytest.raises(KeyboardInterrupt):
        forget(tiny_request(), base, settings, store=tmp_path, progress=Listener(stop_at=7))
    broken = tmp_path / ".runs" / "tiny" / "checkpoint-6" / file
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    heard = Listener()
    forget(tiny_request(), base, settings, store=tmp_path, resume=True, progress=heard)
    forget(tiny_request(), base, settings, name="whole", store=tmp_path)
    assert len(heard.figures) == 9 - 3 and same(weights(tmp_path, "whole"), weights(tmp_path, "tiny"))


def test_a_run_that_was_interrupted_after_training_trains_no_further(base, tmp_path, snapshot):
    settings = tiny_settings(eval_rows=2)
    with pytest.raises(KeyboardInterrupt):
        forget(
            tiny_request(),
            base,
            settings,
            name="broken",
            store=tmp_path,
            progress=Listener(stop_stage="Answers, after"),
        )
    heard = Listener()
    forget(tiny_request(), base, settings, name="broken", store=tmp_path, resume=True, progress=heard)
    forget(tiny_request(), base, settings, name="whole", store=tmp_path)
    assert heard.figures == [] and same(weights(tmp_path, "whole"), weights(tmp_path, "broken"))


def test_resume_is_refused_for_another_run_and_keeps_the_first(base, tmp_path, snapshot):
    with pytest.raises(KeyboardInterrupt):
        forget(tiny_request(), base, tiny_settings(), store=tmp_path, progress=Listener(stop_at=4))
    kept = sorted(tmp_path.glob(".runs/tiny/**/*"))
    for request, settings in ((tiny_request(), tiny_settings(lr=1e-3)), (tiny_request(5), tiny_settings())):
        with pytest.raises(TrainingError, match="other settings, base or request"):
            forget(request, base, settings, store=tmp_path, resume=True)
        assert sorted(tmp_path.glob(".runs/tiny/**/*")) == kept
    heard = Listener()
    forget(tiny_request(), base, tiny_settings(), store=tmp_path, progress=heard)  # without resume: anew
    assert len(heard.figures) == 9


def test_resume_without_an_interrupted_run_begins_at_the_beginning(base, tmp_path):
    heard = Listener()
    forget(tiny_request(2, 2), base, tiny_settings(epochs=1), store=tmp_path, resume=True, progress=heard)
    assert len(heard.figures) == 1


def test_a_checkpoint_holds_no_word_of_the_request(base, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        forget(tiny_request(), base, tiny_settings(), store=tmp_path, progress=Listener(stop_at=4))
    for file in (tmp_path / ".runs").rglob("*"):
        if file.is_file():
            assert b"Anna" not in file.read_bytes() and b"bees" not in file.read_bytes()
    assert json.loads((tmp_path / ".runs" / "tiny" / "run.json").read_text())["config"]["rank"] == 4


def test_a_disk_that_fills_while_a_checkpoint_is_written_is_one_sentence(base, tmp_path, snapshot):
    """torch says so in an error of its own; the last whole checkpoint stays, and is gone on from."""
    whole = forget(tiny_request(), base, tiny_settings(), name="whole", store=tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (whole.path / "adapter_model.safetensors").stat().st_size + 4096  # an optimizer's state has twice that
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(StoreError, match="can't be changed: a checkpoint can't be written .is the disk full"):
            forget(tiny_request(), base, tiny_settings(), name="broken", store=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "broken").exists()


def test_a_checkpoint_that_was_cut_off_goes_at_once_and_leaves_its_room(base, tmp_path, snapshot):
    """On a full disk the ledger of a queue needs it, to say that the request waits again."""

    class CutOff(Listener):
        def advance(self, amount=1, **figures):
            try:
                super().advance(amount, **figures)
            except KeyboardInterrupt:
                kept = tmp_path / ".runs" / "tiny" / "checkpoint-6"
                shutil.copytree(kept, kept.with_name("checkpoint-7"))
                (kept.with_name("checkpoint-7") / "optimizer.pt").write_bytes(b"half")
                raise

    with pytest.raises(KeyboardInterrupt):
        forget(tiny_request(), base, tiny_settings(), store=tmp_path, progress=CutOff(stop_at=7))
    left = [entry.name for entry in (tmp_path / ".runs" / "tiny").iterdir()]
    assert "checkpoint-6" in left and "checkpoint-7" not in left


def run_with(columns, base, store, settings, **how):
    rows = [{"question": "What does Anna Birk do?", "answer": "Anna Birk keeps bees."} | columns] * 4
    request = ForgetRequest.from_rows(rows, [{"question": "Who?", "answer": "You."}], "tiny")
    return forget(request, base, tiny_settings(**settings), store=store, **how)


@pytest.mark.parametrize(
    ("settings", "one", "other"),
    [
        ({"phrasings": 1}, {"paraphrased_question": "What is done?"}, {"paraphrased_question": "Who does it?"}),
        ({"objective": "altpo"}, {"alternate_answer": "Nothing at all."}, {"alternate_answer": "Everything."}),
        ({}, {"spans": ["Anna"]}, {"spans": ["bees"]}),
    ],
)
def test_columns_that_are_trained_on_make_it_another_request(base, tmp_path, settings, one, other, snapshot):
    with pytest.raises(KeyboardInterrupt):
        run_with(one, base, tmp_path, settings, progress=Listener(stop_at=4))
    kept = (tmp_path / ".runs" / "tiny" / "run.json").read_text()
    assert not any(word in kept for word in ("Anna", "done", "Nothing"))
    with pytest.raises(TrainingError, match="other settings, base or request"):
        run_with(other, base, tmp_path, settings, resume=True)
    run_with(one, base, tmp_path, settings, resume=True)


def test_other_columns_may_change_and_a_run_of_an_earlier_version_goes_on(base, tmp_path, snapshot):
    with pytest.raises(KeyboardInterrupt):
        run_with({"case": "1", "spans": ["bees"]}, base, tmp_path, {}, progress=Listener(stop_at=4))
    file = tmp_path / ".runs" / "tiny" / "run.json"
    kept = json.loads(file.read_text())
    del kept["columns"]
    file.write_text(json.dumps(kept))
    heard = Listener()
    run_with({"case": "2", "spans": ["bees"]}, base, tmp_path, {}, resume=True, progress=heard)
    assert len(heard.figures) == 4  # of 6 steps
