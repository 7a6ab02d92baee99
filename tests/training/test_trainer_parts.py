"""The trainer piece by piece: what a step adds up, and what it logs."""

from types import SimpleNamespace

import pytest
import torch
from transformers.trainer_callback import PrinterCallback

import asu_lora.training.trainer as trainer_module
from asu_lora.batches.collator import ON_POLICY
from asu_lora.errors import TrainingError
from asu_lora.hardware import memory
from asu_lora.losses.loss import Loss
from asu_lora.models.loading import load_base
from asu_lora.training.step_losses import add_totals, losses
from asu_lora.training.trainer import UnlearningTrainer, check_finite, coefficients, collator_of
from tests.support.tiny_run import tiny_settings
from tests.support.trainer_run import SIMPLE, run, sets_of, trainer_of


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(str(tiny_base), "fp32", "cpu")


# ---- sums


def test_each_set_has_its_coefficient_and_own_answers_are_forget_rows():
    config = tiny_settings(forget_coeff=0.3, retain_coeff=2.0)
    assert coefficients(config) == {"forget": 0.3, "retain": 2.0, ON_POLICY: 0.3}


def test_totals_of_parts_add_up_by_set_and_view():
    one = {"forget": {"answer": {"step_rows": 2, "step_tokens": 9}, "idk": {"step_rows": 2, "step_tokens": 5}}}
    two = {
        "forget": {"answer": {"step_rows": 1, "step_tokens": 4}},
        "retain": {"answer": {"step_rows": 3, "step_tokens": 8}},
    }
    assert add_totals([one, two]) == {
        "forget": {"answer": {"step_rows": 3, "step_tokens": 13}, "idk": {"step_rows": 2, "step_tokens": 5}},
        "retain": {"answer": {"step_rows": 3, "step_tokens": 8}},
    }
    assert one["forget"]["answer"] == {"step_rows": 2, "step_tokens": 9} and add_totals([]) == {}


def test_totals_of_a_step_are_those_of_all_processes(monkeypatch):
    mine = {"forget": {"answer": {"step_rows": 2, "step_tokens": 9}}}
    other = {"forget": {"answer": {"step_rows": 1, "step_tokens": 1}}}
    sent = []
    monkeypatch.setattr(trainer_module, "gather_object", lambda parts: sent.append(parts) or [*parts, other])

    def totals(processes):
        trainer = SimpleNamespace(accelerator=SimpleNamespace(num_processes=processes))
        return UnlearningTrainer.step_totals(trainer, [mine, mine])

    assert totals(1) == {"forget": {"answer": {"step_rows": 4, "step_tokens": 18}}} and sent == []
    assert totals(2) == {"forget": {"answer": {"step_rows": 5, "step_tokens": 19}}} and sent == [[totals(1)]]


def test_processes_share_logged_losses_and_undo_the_mean_of_gradients():
    calls = []
    accelerator = SimpleNamespace(num_processes=2, reduce=lambda value, how: calls.append(how) or 10 * value)
    trainer = SimpleNamespace(accelerator=accelerator)
    assert UnlearningTrainer._summed(trainer, torch.tensor(2.0)) == 20 and calls == ["sum"]
    accelerator.num_processes = 1
    assert UnlearningTrainer._summed(trainer, torch.tensor(2.0)) == 2 and calls == ["sum"]


def test_weights_that_are_no_numbers_are_named():
    module = torch.nn.Linear(2, 2)
    check_finite(module)
    module.weight.requires_grad_(False)[0, 0] = torch.nan  # the base's own: not this check's to judge
    check_finite(module)
    module.bias.data[1] = torch.inf
    with pytest.raises(TrainingError) as raised:
        check_finite(module)
    assert str(raised.value) == (
        "The adapter's bias holds numbers that are not finite: lower --lr; nothing was added to the store."
    )


class Kept(Loss):
    """Keeps what it is given, and is the sum of the first view's states."""

    needs = {"answer": (), "idk": ()}

    def __init__(self, value):
        self.value, self.views = value, None

    def __call__(self, views):
        self.views = views
        return self.value * views["answer"].hidden.sum()


def test_each_view_of_a_set_has_its_own_rows_of_the_states():
    def part(at, rows, tokens, **more):
        length = len(at)
        return {
            "at": torch.tensor(at),
            "labels": torch.arange(length),
            "row": torch.zeros(length, dtype=torch.long),
            "rows": rows,
            "references": {"base": torch.full((length, 1), 3.0)},
            "step_rows": rows + 10,
            "step_tokens": tokens,
        } | more

    batch = {
        "sets": {
            "forget": {"answer": part([2, 0], 1, 7), "idk": part([1], 2, 8)},
            "retain": {"answer": part([3], 4, 9)},
        }
    }
    hidden, of = torch.arange(4.0)[:, None], {"forget": Kept(2.0), "retain": Kept(5.0), "other": Kept(1.0)}
    head = SimpleNamespace(module=torch.nn.Linear(1, 4))
    assert losses(hidden, batch, of, head) == {"forget": 4.0, "retain": 15.0}
    answer, idk = of["forget"].views["answer"], of["forget"].views["idk"]
    assert answer.head is head and answer.hidden.tolist() == [[2.0], [0.0]] and idk.hidden.tolist() == [[1.0]]
    assert (
        answer.labels.tolist() == [0, 1] and answer.row.tolist() == [0, 0] and answer.references["base"].shape == (2, 1)
    )
    assert [(v.rows, v.step_rows, v.step_tokens) for v in (answer, idk)] == [(1, 11, 7), (2, 12, 8)]
    totals = {
        "forget": {"answer": {"step_rows": 50, "step_tokens": 60}, "idk": {"step_rows": 51, "step_tokens": 61}},
        "retain": {"answer": {"step_rows": 52, "step_tokens": 62}},
    }
    losses(hidden, batch, of, head, totals)
    for name, view, expected in (
        ("forget", "answer", (1, 50, 60)),
        ("forget", "idk", (2, 51, 61)),
        ("retain", "answer", (4, 52, 62)),
    ):
        found = of[name].views[view]
        assert (found.rows, found.step_rows, found.step_tokens) == expected


def test_the_collator_is_that_of_the_settings_and_the_device(base):
    config = tiny_settings(**SIMPLE)
    sets = sets_of(base, config)
    found = collator_of(sets, config, base)
    assert found.sets == {name: each.rows for name, each in sets.items()}
    assert found.needs == {"forget": {"answer": ("base_logprob",)}, "retain": {"answer": ()}}
    assert (found.pad_id, found.most_tokens, found.packing) == (base.pad_id, 512, None)
    assert collator_of(sets, tiny_settings(**SIMPLE, micro_batch_tokens=96), base).most_tokens == 96


def test_the_collator_packs_where_that_was_tried(base, monkeypatch):
    asked = []
    monkeypatch.setattr(trainer_module, "packing_of", lambda model: asked.append(model) or "packing")
    config = tiny_settings(**SIMPLE)
    assert collator_of(sets_of(base, config), config, base).packing == "packing" and asked == [base.model]


# ---- steps


def test_a_steps_loss_is_the_weighted_sum_of_its_sets_and_nothing_is_carried_over(base, tmp_path):
    """Three steps of the last of which one has fewer rows; hardly any rate, so that every epoch is the same."""
    done = run(base, tmp_path, lr=1e-12, epochs=2, batch_size=3, retain_per_forget=2)
    logs = [log for log in done.watch.logs if "loss" in log]
    assert len(logs) == 4
    for log in logs:
        assert log["forget_loss"] > 0 and log["retain_loss"] > 0
        assert log["loss"] == pytest.approx(0.5 * log["forget_loss"] + 3.0 * log["retain_loss"], rel=1e-3)
    assert "on_policy_loss" not in logs[0]
    sums = [
        sum(log["forget_loss"] * rows for log, rows in zip(part, (3, 1), strict=True)) for part in (logs[:2], logs[2:])
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-3)
    assert all("forget_loss" not in log for log in done.watch.logs if "loss" not in log)


def test_a_set_that_a_step_has_no_rows_of_is_logged_as_nothing(base, tmp_path):
    done = run(base, tmp_path, own=True, lr=1e-12, batch_size=1)
    logs = [log for log in done.watch.logs if "loss" in log]
    own = [log["on_policy_loss"] for log in logs]
    assert len(own) == 4 and sum(value > 0 for value in own) == 1 and sum(value == 0 for value in own) == 3
    for log in logs:
        forget = log["forget_loss"] + log["on_policy_loss"]
        assert log["loss"] == pytest.approx(0.5 * forget + 3.0 * log["retain_loss"], rel=1e-3)


def test_micro_batches_and_accumulation_are_one_step(base, tmp_path, monkeypatch):
    released, quiet = [], []
    whole = run(base, tmp_path / "whole", batch_size=4, micro_batch_tokens=10**6)
    real = UnlearningTrainer.training_step

    def watched(self, model, inputs, *rest):
        if not hasattr(self, "watched"):
            self.watched, no_sync = True, self.accelerator.no_sync
            self.accelerator.no_sync = lambda model: quiet.append(1) or no_sync(model)
        return real(self, model, inputs, *rest)

    monkeypatch.setattr(memory, "release_freed_memory", lambda: released.append(1))
    monkeypatch.setattr(UnlearningTrainer, "training_step", watched)
    parts = run(base, tmp_path / "parts", batch_size=4, micro_batch_tokens=1)
    assert len(quiet) == 7 and len(released) == 1  # eight rows one by one: seven before the last
    shared = run(base, tmp_path / "shared", batch_size=2, grad_accum=2, micro_batch_tokens=1)
    assert len(whole.watch.gradients) == len(parts.watch.gradients) == len(shared.watch.gradients) == 1
    for other in (parts, shared):
        assert other.watch.logs[0]["loss"] == pytest.approx(whole.watch.logs[0]["loss"], rel=1e-4)
        assert other.watch.logs[0]["forget_loss"] == pytest.approx(whole.watch.logs[0]["forget_loss"], rel=1e-4)
        difference = other.watch.gradients[0] - whole.watch.gradients[0]
        assert difference.norm() < 1e-4 * whole.watch.gradients[0].norm()


def test_a_loss_is_scaled_by_the_processes_that_share_the_step(base, tmp_path):
    with trainer_of(base, tmp_path) as (trainer, _):
        batch = trainer.data_collator([(0, [1]), (2, [3])])
        (part,) = batch["micro_batches"]
        one = trainer.compute_loss(trainer.student, part, num_items_in_batch=batch["totals"])
        kept = dict(trainer.sums)
        loss, hidden = trainer.compute_loss(trainer.student, part, True, batch["totals"])
        assert loss == one and hidden.shape[1] == 64
        assert kept.keys() == {"forget", "retain"} and not any(value.requires_grad for value in kept.values())
        assert one.item() == pytest.approx(0.5 * kept["forget"].item() + 3 * kept["retain"].item(), rel=1e-5)
        assert trainer.sums["forget"].item() == pytest.approx(2 * kept["forget"].item(), rel=1e-5)
        halved = {name: {view: {key: 2 * n for key, n in counts.items()} for view, counts in views.items()}
                  for name, views in batch["totals"].items()}  # fmt: skip
        found = trainer.compute_loss(trainer.student, part, num_items_in_batch=halved)
        assert found.item() == pytest.approx(one.item() / 2)
        plain, trainer.accelerator = trainer.accelerator, SimpleNamespace(num_processes=2)
        assert trainer.compute_loss(trainer.student, part).item() == pytest.approx(2 * one.item(), rel=1e-5)
        trainer.accelerator = plain


def test_a_trainer_never_prints_and_leaves_dividing_to_the_totals(base, tmp_path):
    with trainer_of(base, tmp_path) as (trainer, _):
        assert trainer.loss_is_scaled_for_ga is True and trainer.counted == 0 and trainer.sums == {}
        assert not any(isinstance(callback, PrinterCallback) for callback in trainer.callback_handler.callbacks)
        assert trainer.head is base.head and trainer.student is trainer.model
        pairs = [trainer.data_collator([(0, [1])]), trainer.data_collator([(1, [2]), (2, [3])])]
        batches, totals = trainer.get_batch_samples(iter(pairs), 2, torch.device("cpu"))
        assert batches == pairs and totals["forget"]["answer"]["step_rows"] == 3 and trainer.counted == 1
        trainer.get_batch_samples(iter(pairs), 2, torch.device("cpu"))
        assert trainer.counted == 2


def test_logs_are_means_over_the_steps_since_the_last(base, tmp_path):
    with trainer_of(base, tmp_path) as (trainer, _):
        trainer.sums, trainer.counted, logs = {"forget": torch.tensor(6.0)}, 4, {"loss": 1.0}
        trainer.log(logs)
        assert logs["forget_loss"] == 1.5 and logs["retain_loss"] == 0.0
        assert trainer.sums == {} and trainer.counted == 0
        for logs in ({"loss": 1.0}, {"train_runtime": 1.0}):
            trainer.counted = 0 if "loss" in logs else 3
            trainer.log(logs)
            assert "forget_loss" not in logs
        assert trainer.counted == 3
        trainer.log({"loss": 2.0}, 17.0)  # Trainer gives the time a step began beside it
