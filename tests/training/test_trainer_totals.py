"""What a step's loss is summed of: sets, views, parts and processes, and the collator that makes them."""

from types import SimpleNamespace

import pytest
import torch

import asu_lora.training.trainer as trainer_module
from asu_lora.batches.collator import ON_POLICY
from asu_lora.errors import TrainingError
from asu_lora.losses.loss import Loss
from asu_lora.models.loading import load_base
from asu_lora.training.trainer import UnlearningTrainer, add_totals, check_finite, coefficients, collator_of, losses
from tests.support.tiny_run import tiny_settings
from tests.support.trainer_runs import SIMPLE, sets_of


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(str(tiny_base), "fp32", "cpu")


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
    assert losses(hidden, batch, of, "head") == {"forget": 4.0, "retain": 15.0}
    answer, idk = of["forget"].views["answer"], of["forget"].views["idk"]
    assert answer.head == "head" and answer.hidden.tolist() == [[2.0], [0.0]] and idk.hidden.tolist() == [[1.0]]
    assert (
        answer.labels.tolist() == [0, 1] and answer.row.tolist() == [0, 0] and answer.references["base"].shape == (2, 1)
    )
    assert [(v.rows, v.step_rows, v.step_tokens) for v in (answer, idk)] == [(1, 11, 7), (2, 12, 8)]
    totals = {
        "forget": {"answer": {"step_rows": 50, "step_tokens": 60}, "idk": {"step_rows": 51, "step_tokens": 61}},
        "retain": {"answer": {"step_rows": 52, "step_tokens": 62}},
    }
    losses(hidden, batch, of, "head", totals)
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
