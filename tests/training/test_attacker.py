"""--attacker-lr: the adapter forgets beside another one that relearns, and nothing of that one stays."""

import pytest
import torch
from safetensors.torch import load_file

from asu_lora.adapters.manifest import read_manifest
from asu_lora.batches.forget_retain_pairs import Pair
from asu_lora.errors import SettingError
from asu_lora.forgetting.at_once import forget_at_once
from asu_lora.forgetting.forget import forget
from asu_lora.models.loading import load_base
from asu_lora.training.attacker import ATTACKER, EPISODE, Attacker
from tests.support.tiny_run import tiny_request, tiny_settings
from tests.support.trainer_run import run


class Watched(Attacker):
    """Writes down of each step: the episode, the rows, how likely their answers are with it and without it, and
    whether anything but itself was moved."""

    seen, kept = [], []

    def step(self):
        before = {name: p.detach().clone() for name, p in self.others()}
        super().step()
        self.kept.append(all(torch.equal(before[name], p) for name, p in self.others()))

    def others(self):
        return [(name, p) for name, p in self.trainer.student.named_parameters() if ".attacker." not in name]

    def _learn(self, rows):
        super()._learn(rows)
        assert not any(p.requires_grad for p in self.parameters)
        with self.trainer.student.attacker.given(None):
            told = self._likelihood(rows)
        self.seen.append((self.steps // EPISODE, tuple(rows), told, self._likelihood(rows)))

    @torch.no_grad()
    def _likelihood(self, rows):
        items = self.trainer.data_collator.sets["forget"].views["answer"]
        found = []
        for row in rows:
            ids = torch.tensor([items[row].prompt_ids + items[row].answer_ids])
            logits = self.trainer.student.model(input_ids=ids).logits[0, len(items[row].prompt_ids) - 1 : -1]
            found.append(logits.log_softmax(1).gather(1, torch.tensor(items[row].answer_ids)[:, None]).mean())
        return float(torch.stack(found).mean())


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(Watched, "seen", [])
    monkeypatch.setattr(Watched, "kept", [])
    monkeypatch.setattr("asu_lora.training.trainer.Attacker", Watched)
    return Watched


def weights(made):
    return load_file(made.path / "adapter_model.safetensors")


def test_it_relearns_moves_nothing_else_and_begins_anew(tiny_base, tmp_path, watched):
    """Of a base that knows nothing, and a student that stands nearly still."""
    base = load_base(str(tiny_base), "fp32", "cpu")
    settings = tiny_settings(attacker_lr=5e-3, lr=1e-9, epochs=8, batch_size=1, own_words=0.0)
    forget(tiny_request(5, 6), base, settings, name="still", store=tmp_path)
    assert len(watched.kept) == len(watched.seen) == 40 and all(watched.kept)
    episodes = {}
    for episode, rows, told, without in watched.seen:
        assert len(rows) == 1  # a fifth of five
        episodes.setdefault(episode, []).append((rows, told, without))
    assert [len(steps) for steps in episodes.values()] == [EPISODE] * 5
    assert len({steps[0][0] for steps in episodes.values()}) > 1  # others are known in other episodes
    for steps in episodes.values():
        assert len({rows for rows, *_ in steps}) == 1  # who knows one row relearns it again
        told = [likelihood for _, likelihood, _ in steps]
        assert all(likelihood > without for _, likelihood, without in steps) and told[-1] > told[0]


def test_it_acts_on_forget_rows_alone_and_is_gone_afterwards(base, tmp_path, monkeypatch):
    found = []

    class Compared(Attacker):
        def step(self):
            super().step()
            if self.steps != 3:
                return
            student, collator = self.trainer.student, self.trainer.data_collator
            (batch,) = collator([Pair(0, [1]), Pair(2, [0])])["micro_batches"]
            with torch.no_grad():
                beside = student(batch["passes"])
                without = student([{k: v for k, v in each.items() if k != "attacked"} for each in batch["passes"]])
                full = student([each | {"attacked": torch.ones(())} for each in batch["passes"]])
            for name in ("forget", "retain"):
                at = batch["sets"][name]["answer"]["at"]
                found.append((name, beside[at], without[at], full[at]))

    monkeypatch.setattr("asu_lora.training.trainer.Attacker", Compared)
    made = forget(tiny_request(4, 4), base, tiny_settings(attacker_lr=5e-3, own_words=0.0), name="a", store=tmp_path)
    (_, beside, without, full), (_, kept, kept_without, kept_full) = found
    assert torch.equal(beside, full) and not torch.equal(beside, without)
    assert torch.equal(kept, kept_without) and not torch.equal(kept, kept_full)
    assert not any(ATTACKER in name for name, _ in base.model.named_modules())
    assert not any(ATTACKER in name for name in weights(made))


@pytest.mark.parametrize("own_words", [0.0, 0.25])
def test_an_attacker_that_stands_still_changes_nothing(base, tmp_path, own_words):
    plain = forget(tiny_request(), base, tiny_settings(own_words=own_words), name="plain", store=tmp_path)
    settings = tiny_settings(own_words=own_words, attacker_lr=1e-30)
    beside = forget(tiny_request(), base, settings, name="beside", store=tmp_path)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(beside)[name], value, rtol=0, atol=1e-6)


def test_recomputed_layers_are_attacked_as_in_their_first_pass(base, tmp_path):
    settings = {"attacker_lr": 5e-3, "retain_dose": 2.0, "forget_dose": 1.5, "own_words": 0.0}
    plain = forget(tiny_request(), base, tiny_settings(**settings), name="plain", store=tmp_path)
    settings["gradient_checkpointing"] = True
    again = forget(tiny_request(), base, tiny_settings(**settings), name="again", store=tmp_path)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(again)[name], value, rtol=1e-4, atol=1e-6)


def test_adapters_beneath_stay_as_they_are(base, tmp_path):
    ground = forget(tiny_request(), base, tiny_settings(), name="ground", store=tmp_path)
    before = weights(ground)
    settings = tiny_settings(attacker_lr=5e-3)
    top = forget(tiny_request(3, 4), base, settings, name="top", store=tmp_path, on_top_of=["ground"])
    assert all(torch.equal(weights(ground)[name], value) for name, value in before.items())
    still = forget(
        tiny_request(3, 4), base, tiny_settings(attacker_lr=1e-30), name="s", store=tmp_path, on_top_of=["ground"]
    )
    plain = forget(tiny_request(3, 4), base, tiny_settings(), name="p", store=tmp_path, on_top_of=["ground"])
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(still)[name], value, rtol=0, atol=1e-6)
    assert any((weights(plain)[name] != value).any() for name, value in weights(top).items())


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
    with pytest.raises(SettingError, match="an attacker for each"):
        forget_at_once({"a": tiny_request()}, base, tiny_settings(attacker_lr=1e-3), store=tmp_path)
    with pytest.raises(SettingError, match="attacker_lr is -1"):
        tiny_settings(attacker_lr=-1.0)
