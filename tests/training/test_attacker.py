"""--attacker-lr: the adapter forgets from where an attacker has brought it, and stands where it stood between steps."""

from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from asu_lora.adapters.manifest import read_manifest
from asu_lora.errors import SettingError
from asu_lora.forgetting.at_once import forget_at_once
from asu_lora.forgetting.forget import forget
from asu_lora.models.loading import load_base
from asu_lora.training.attacker import EPISODE, Attacker
from tests.support.tiny_run import tiny_request, tiny_settings
from tests.support.trainer_run import run


class Watched(Attacker):
    """Writes down, of each batch: the step, whether the weights were put back, how far they had been moved."""

    seen, losses = [], []

    @contextmanager
    def acting(self):
        before = torch.cat([p.detach().flatten().clone() for p in self.parameters])
        with super().acting():
            inside = torch.cat([p.detach().flatten() for p in self.parameters])
            yield
        after = torch.cat([p.detach().flatten() for p in self.parameters])
        step = self.trainer.state.global_step
        self.seen.append((step, torch.equal(before, after), float((inside - before).pow(2).mean().sqrt())))

    def _backward(self, rows):
        super()._backward(rows)
        self.losses.append((self.began, tuple(rows), self._likelihood(rows)))

    @torch.no_grad()
    def _likelihood(self, rows):
        trainer = self.trainer
        items = trainer.data_collator.sets["forget"].views["answer"]
        found = []
        for row in rows:
            ids = torch.tensor([items[row].prompt_ids + items[row].answer_ids])
            logits = trainer.student.model(input_ids=ids).logits[0, len(items[row].prompt_ids) - 1 : -1]
            found.append(logits.log_softmax(1).gather(1, torch.tensor(items[row].answer_ids)[:, None]).mean())
        return float(torch.stack(found).mean())


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(Watched, "seen", [])
    monkeypatch.setattr(Watched, "losses", [])
    monkeypatch.setattr("asu_lora.training.trainer.Attacker", Watched)
    return Watched


def weights(made):
    return load_file(made.path / "adapter_model.safetensors")


def test_it_moves_every_second_step_and_leaves_the_weights_bit_by_bit(tiny_base, tmp_path, watched):
    """Of a base that knows nothing, and a student that stands nearly still: the attacker learns, and begins anew."""
    base = load_base(str(tiny_base), "fp32", "cpu")
    settings = tiny_settings(attacker_lr=5e-3, lr=1e-9, epochs=8, batch_size=1, own_words=0.0)
    forget(tiny_request(5, 6), base, settings, name="still", store=tmp_path)
    assert len(watched.seen) == 40 and all(same for _, same, _ in watched.seen)
    assert all((moved > 0) == step % 2 for step, _, moved in watched.seen)
    episodes = {}
    for began, rows, likelihood in watched.losses:
        assert len(rows) == 1  # a fifth of five
        episodes.setdefault(began, []).append((rows, likelihood))
    assert len(watched.losses) == 20 and all(len(steps) <= EPISODE for steps in episodes.values())
    assert len({steps[0][0] for steps in episodes.values()}) > 1  # others are known in other episodes
    for steps in episodes.values():
        assert len({rows for rows, _ in steps}) == 1  # who knows one row relearns it again
        told = [likelihood for _, likelihood in steps]
        assert told == sorted(told) and told[-1] > told[0]


def test_the_adapter_is_another_and_has_forgotten(base, tmp_path):
    plain = forget(tiny_request(), base, tiny_settings(eval_rows=6), name="plain", store=tmp_path)
    hard = forget(tiny_request(), base, tiny_settings(eval_rows=6, attacker_lr=2e-3), name="hard", store=tmp_path)
    again = forget(tiny_request(), base, tiny_settings(eval_rows=6, attacker_lr=2e-3), name="again", store=tmp_path)
    assert any((weights(plain)[key] != value).any() for key, value in weights(hard).items())
    assert all(torch.equal(weights(again)[key], value) for key, value in weights(hard).items())
    assert hard.after["forget_probability"] < hard.before["forget_probability"]
    assert read_manifest(hard.path).training["attacker_lr"] == 2e-3


def test_a_micro_batch_of_own_answers_alone_is_nothing_to_relearn(base, tmp_path):
    """In the phase of the student's own answers, with less in a micro-batch than a row has."""
    settings = {"attacker_lr": 2e-3, "epochs": 6, "batch_size": 1}
    whole = run(base, tmp_path / "whole", own=True, **settings)
    shared = run(base, tmp_path / "shared", own=True, micro_batch_tokens=1, **settings)
    for name, value in whole.after.items():
        torch.testing.assert_close(shared.after[name], value, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_attacked_is_refused(base, tmp_path):
    with pytest.raises(SettingError, match="idk never looks at the true answers"):
        forget(tiny_request(), base, tiny_settings(objective="idk", attacker_lr=1e-3), store=tmp_path)
    with pytest.raises(SettingError, match="--attacker-lr"):
        forget_at_once({"a": tiny_request()}, base, tiny_settings(attacker_lr=1e-3), store=tmp_path)
    with pytest.raises(SettingError, match="attacker_lr is -1"):
        tiny_settings(attacker_lr=-1.0)
