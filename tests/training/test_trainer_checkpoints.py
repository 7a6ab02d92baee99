"""The trainer piece by piece: what it saves and takes up again, how it deals rows, and how it ends."""

from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

import asu_lora.training.trainer as trainer_module
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs
from asu_lora.errors import NotEnoughMemory
from asu_lora.models.loading import load_base
from asu_lora.training.phases import Phase
from asu_lora.training.student import Student
from asu_lora.training.trainer import train
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_settings
from tests.support.trainer_run import SIMPLE, moved, run, sets_of, trainer_of


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(str(tiny_base), "fp32", "cpu")


def test_a_checkpoint_holds_the_adapter_alone_and_gives_it_back(base, tmp_path, monkeypatch):
    with trainer_of(base, tmp_path / "run") as (trainer, peft):
        trainer._save(str(tmp_path / "deep" / "down"))
        trainer._save(str(tmp_path / "deep" / "down"))  # Trainer writes into a folder that is there already
        trainer._save()
        kept = load_file(tmp_path / "deep" / "down" / "adapter_model.safetensors")
        assert kept and all("lora_" in name for name in kept)
        assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
        assert not (tmp_path / "deep" / "down" / "model.safetensors").exists()
        before = {name: p.detach().clone() for name, p in peft.named_parameters() if p.requires_grad}
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.data.zero_()
        trainer._load_from_checkpoint(str(tmp_path / "deep" / "down"))
        after = {name: p for name, p in peft.named_parameters() if p.requires_grad}
        assert all(torch.equal(before[name], after[name]) for name in before)
        monkeypatch.setattr(type(trainer.args), "should_save", False)  # of another process than the first
        trainer._save(str(tmp_path / "other"))
        assert (tmp_path / "other").is_dir() and not list((tmp_path / "other").iterdir())


def test_saving_asks_for_no_embeddings_and_no_other_adapter(base, tmp_path, monkeypatch):
    with trainer_of(base, tmp_path) as (trainer, peft):
        given = []
        monkeypatch.setattr(peft, "save_pretrained", lambda *args, **named: given.append((args, named)))
        trainer._save(str(tmp_path / "out"))
    assert given == [((str(tmp_path / "out"),), {"save_embedding_layers": False, "selected_adapters": ["default"]})]


def test_a_run_tells_its_steps_and_closes_with_its_figures(base, tmp_path):
    done = run(base, tmp_path, batch_size=2)
    assert done.closing["steps"] == 2 and done.closing["train_seconds"] > 0
    logs = [log["loss"] for log in done.watch.logs if "loss" in log]
    assert done.closing["train_loss"] == pytest.approx(sum(logs) / 2)
    assert done.heard.stages == ["Training it"] and done.heard.steps == 2
    assert [figures["loss"] for figures in done.heard.figures] == logs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"]


def test_retain_rows_are_dealt_by_the_phase_and_the_settings(base, tmp_path, monkeypatch):
    given = []

    class Pairs(ForgetRetainPairs):
        def __init__(self, *args, **named):
            given.append((args, named))
            super().__init__(*args, **named)

        def set_epoch(self, epoch):
            given.append(epoch)
            super().set_epoch(epoch)

    monkeypatch.setattr(trainer_module, "ForgetRetainPairs", Pairs)
    run(base, tmp_path / "a", batch_size=4, epochs=2, retain_per_forget=2, retain_dose=1.5, forget_dose=1.25)
    assert given[0] == ((4, 4, 2, 7), {"retain_dose": 1.5, "forget_dose": 1.25, "in_other_words": {}})
    assert {0, 1} <= set(given[1:])
    given.clear()
    run(base, tmp_path / "b", batch_size=4, retain_loss="none")
    assert given[0][0][:2] == (4, 0)


def test_an_interrupted_run_goes_on_and_a_finished_one_trains_no_more(base, tmp_path):
    whole = run(base, tmp_path / "whole", epochs=2, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        run(base, tmp_path / "broken", epochs=2, batch_size=4, listener=Listener(stop_at=2))
    config = tiny_settings(**SIMPLE | dict(epochs=2, batch_size=4))

    def again(resume):
        with moved(base, config) as peft:
            heard = Listener()
            closing = train(
                Student(peft), sets_of(base, config), Phase(config, 7), base, tmp_path / "broken",
                progress=heard, resume=resume,
            )  # fmt: skip
            return closing, heard, {n: p.detach().clone() for n, p in peft.named_parameters() if p.requires_grad}

    resumed, heard, after = again(True)
    assert len(heard.figures) == 1 and resumed["steps"] == 2
    assert all(torch.equal(after[name], whole.after[name]) for name in after)
    assert resumed["train_loss"] == pytest.approx(whole.closing["train_loss"])
    finished, heard, kept = again(True)
    assert heard.figures == [] and heard.stages == [] and finished["train_seconds"] == 0.0
    assert finished["steps"] == 2 and finished["train_loss"] == pytest.approx(whole.closing["train_loss"])
    assert all(torch.equal(kept[name], whole.after[name]) for name in kept)
    _, heard, _ = again(False)
    assert len(heard.figures) == 2


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MemoryError(), NotEnoughMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), NotEnoughMemory),
        (RuntimeError("another"), RuntimeError),
        (ValueError("out of memory"), ValueError),
    ],
)
def test_want_of_memory_is_one_sentence_and_other_errors_are_themselves(base, tmp_path, monkeypatch, error, raised):
    def fail(*args, **named):
        raise error

    monkeypatch.setattr(trainer_module, "views_of", fail)
    with pytest.raises(raised) as found:
        run(base, tmp_path)
    if raised is NotEnoughMemory:
        assert found.value.__cause__ is error and str(found.value) == (
            "There is not enough memory for a training step: lower --micro-batch-tokens or add --gradient-checkpointing."
        )
    else:
        assert found.value is error


def test_the_layers_below_the_adapter_are_replaced_while_it_trains(base, tmp_path, monkeypatch):
    inside, real = [], trainer_module.views_of

    @contextmanager
    def ready(self):
        inside.append("in")
        yield
        inside.append("out")

    monkeypatch.setattr(Student, "ready", ready)
    monkeypatch.setattr(trainer_module, "views_of", lambda *args: inside.append("loss") or real(*args))
    run(base, tmp_path, batch_size=4, micro_batch_tokens=10**6)
    assert inside == ["in", "loss", "out"]


def test_trainers_arguments_are_those_of_the_phase_and_the_base(base, tmp_path, monkeypatch):
    given, real = [], trainer_module.training_arguments

    def made(*args, **named):
        given.append((*args, named))
        return real(*args, **named)

    monkeypatch.setattr(trainer_module, "training_arguments", made)
    done = run(base, tmp_path, batch_size=4)
    assert given == [(done.config, tmp_path, base.device, torch.float32, {"checkpoints": True})]
