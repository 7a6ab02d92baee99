"""Runs that were interrupted: taken up again bit for bit, refused for another run."""

import json

import pytest
import torch

from asu_lora.errors import TrainingError
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
