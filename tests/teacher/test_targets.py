"""What losses are compared with: each reference against the row alone, and no pass through a layer too many."""

from types import SimpleNamespace

import pytest
import torch

from asu_lora.bases.source import BaseSource
from asu_lora.data.encoding import Encoded
from asu_lora.data.training_rows import TrainingRows
from asu_lora.losses import FORGET, RETAIN, TrainingSet
from asu_lora.losses.forget.asu import ASU
from asu_lora.losses.forget.dpo import DPO
from asu_lora.losses.forget.ga import GA
from asu_lora.losses.forget.npo import NPO
from asu_lora.losses.forget.rmu import RMU
from asu_lora.losses.retain.kl_answers import KLAnswers
from asu_lora.models.frozen_layers import find_frozen_layers, find_frozen_layers_above
from asu_lora.models.loading import LoadedBase
from asu_lora.teacher.fluency import FluencyMasks
from asu_lora.teacher.kept_states import KeptStates
from asu_lora.teacher.smoothing import attention_smoothing
from asu_lora.teacher.targets import anchored, compute_references, needs_base, passes_needed
from asu_lora.teacher.teacher import Teacher
from tests.support.small_models import model_of

ROWS = [Encoded((5, 6, 7, 8), (9, 10, 11)), Encoded((3, 4), (12, 13)), Encoded(tuple(range(1, 20)), (2, 7, 9))]
OTHERS = [Encoded((5, 6, 7, 8), (40, 41)), Encoded((3, 4), (42, 43, 44)), Encoded(tuple(range(1, 20)), (45, 46))]
LAYERS, TAU = 4, 2.5
ANCHORS = [torch.tensor([True, False, False]), torch.tensor([False, True]), torch.tensor([False, False, False])]


@pytest.fixture
def base(tmp_path):
    model = model_of("llama").requires_grad_(False)
    for parameter in model.parameters():  # attention that is far from uniform: smoothing must tell
        if parameter.dim() > 1:
            parameter.mul_(8)
    with attention_smoothing(model, TAU):
        pass  # its trial runs every layer, once a model
    found = LoadedBase(BaseSource("llama", tmp_path), model, SimpleNamespace(pad_token_id=0), "fp32", torch.float32)
    assert found.head.vocabulary == 64  # made now: its trial is no part of what is counted
    return found


@pytest.fixture
def ran(base):
    """Rows that each layer has run."""
    counts = [0] * LAYERS

    def count(index):
        def hook(module, inputs, output):
            counts[index] += len(output[0] if isinstance(output, tuple) else output)

        return base.model.model.layers[index].register_forward_hook(hook)

    hooks = [count(index) for index in range(LAYERS)]
    yield counts
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def alone(base, item, tau=1.0, layers=None):
    """Final states at the answer positions of a row without neighbours, and what enters each layer."""
    ids = torch.tensor([item.prompt_ids + item.answer_ids])
    with attention_smoothing(base.model, tau, layers):
        states = base.model.model(input_ids=ids, output_hidden_states=True)
    return states.last_hidden_state[0, len(item.prompt_ids) - 1 : -1], [s[0] for s in states.hidden_states]


def check(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def rows_of(**views):
    return TrainingRows({name: list(items) for name, items in views.items()})


def masks():
    return FluencyMasks(ANCHORS, [torch.tensor([[at]] * len(item.answer_ids)) for at, item in enumerate(ROWS)])


def zip_views(one, other):
    """References of two sets, view by view."""
    assert one.references.keys() == other.references.keys()
    return [(one.references[view], other.references[view]) for view in one.references]


def compute(base, loss, rows, teacher=None, frozen=None):
    """The references, and the rows of which progress was told."""
    heard, training_set = [], TrainingSet(loss, rows)
    compute_references(base, training_set, teacher, frozen, heard.append)
    assert sum(heard) == passes_needed(training_set, teacher, frozen)
    return rows.references


@pytest.mark.parametrize("smoothed", [None, [2, 3]])
def test_the_papers_teacher_is_the_base_with_smoothed_attention(base, ran, smoothed):
    found = compute(base, ASU(), rows_of(answer=ROWS), Teacher(TAU, smoothed))
    assert found.keys() == {"answer"} and found["answer"].keys() == {"teacher"}
    assert ran == [3] * LAYERS
    check(found["answer"]["teacher"], [alone(base, item, TAU, smoothed)[0] for item in ROWS])
    other = [2, 3] if smoothed is None else None
    assert not torch.allclose(found["answer"]["teacher"][0], alone(base, ROWS[0], TAU, other)[0], atol=1e-2)
    assert not torch.allclose(found["answer"]["teacher"][0], alone(base, ROWS[0])[0], atol=1e-2)


def test_anchors_are_the_plain_base_and_all_else_is_the_teacher(base, ran):
    teacher = Teacher(TAU, fluency=masks())
    found = compute(base, ASU(rule_out=True), rows_of(answer=ROWS), teacher)["answer"]
    assert found.keys() == {"teacher", "ruled_out"} and found["ruled_out"] is teacher.fluency.ruled_out
    assert ran == [6] * LAYERS
    expected = []
    for item, anchors in zip(ROWS, ANCHORS, strict=True):
        plain, smooth = alone(base, item)[0], alone(base, item, TAU)[0]
        assert (plain - smooth).abs().amax(1).min() > 1e-2
        expected.append(torch.where(anchors[:, None], plain, smooth))
    check(found["teacher"], expected)
    assert compute(base, ASU(), rows_of(answer=ROWS), teacher)["answer"].keys() == {"teacher"}


def test_each_view_has_its_own_log_probabilities_under_the_base(base, ran):
    found = compute(base, DPO(), rows_of(answer=ROWS, idk=OTHERS))
    assert ran == [6] * LAYERS
    for view, items in (("answer", ROWS), ("idk", OTHERS)):
        assert found[view].keys() == {"base_logprob"}
        expected = []
        for item in items:
            logits = base.model.lm_head(alone(base, item)[0])
            expected.append(logits.log_softmax(1).gather(1, torch.tensor(item.answer_ids)[:, None])[:, 0])
        check(found[view]["base_logprob"], expected)


def test_a_loss_without_references_runs_nothing(base, ran):
    assert compute(base, GA(), rows_of(answer=ROWS), Teacher(TAU)) == {"answer": {}}
    assert ran == [0] * LAYERS


def test_a_retain_set_is_compared_with_the_plain_base_whatever_the_teacher(base, ran):
    found = compute(base, KLAnswers(), rows_of(answer=ROWS), Teacher(TAU, fluency=masks()))["answer"]
    assert found.keys() == {"base"} and ran[0] >= 3
    check(found["base"], [alone(base, item)[0] for item in ROWS])


def test_rows_keep_what_they_enter_the_first_adapted_layer_with(base, ran):
    """Without references the layers above the entry don't run."""
    rows = rows_of(answer=ROWS)
    compute(base, GA(), rows, None, find_frozen_layers(base.model, 2))
    assert rows.references == {"answer": {}}
    check(rows.entries["answer"], [alone(base, item)[1][2] for item in ROWS])


@pytest.mark.parametrize("smoothed", [[2, 3], [1, 3], None])
def test_a_teacher_begins_at_the_entry_where_it_can(base, ran, smoothed):
    frozen = find_frozen_layers(base.model, 2)
    ran[:] = [0] * LAYERS
    rows = rows_of(answer=ROWS)
    found = compute(base, ASU(), rows, Teacher(TAU, smoothed), frozen)["answer"]
    assert ran == ([3, 3, 3, 3] if smoothed == [2, 3] else [6, 6, 3, 3])
    check(found["teacher"], [alone(base, item, TAU, smoothed)[0] for item in ROWS])
    check(rows.entries["answer"], [alone(base, item)[1][2] for item in ROWS])


@pytest.mark.parametrize("smoothed", [[3], [1, 3]])
def test_one_pass_gives_entries_base_and_the_teachers_beginning(base, ran, smoothed):
    frozen = find_frozen_layers(base.model, 1)
    higher = find_frozen_layers_above(frozen, base.model, smoothed)
    assert (higher is not None) == (smoothed == [3])
    ran[:] = [0] * LAYERS
    rows, teacher = rows_of(answer=ROWS), Teacher(TAU, smoothed, masks(), higher)
    found = compute(base, ASU(), rows, teacher, frozen)["answer"]
    assert ran == ([3, 3, 3, 6] if higher else [3, 6, 6, 6])
    check(rows.entries["answer"], [alone(base, item)[1][1] for item in ROWS])
    plain = [alone(base, item)[0] for item in ROWS]
    smooth = [alone(base, item, TAU, smoothed)[0] for item in ROWS]
    check(found["teacher"], [torch.where(a[:, None], p, s) for a, p, s in zip(ANCHORS, plain, smooth, strict=True)])


@pytest.mark.parametrize("loss", [KLAnswers(), NPO()])
def test_the_base_comes_from_the_pass_that_makes_the_entries(base, ran, loss):
    frozen = find_frozen_layers(base.model, 2)
    ran[:] = [0] * LAYERS
    rows = rows_of(answer=ROWS)
    found = compute(base, loss, rows, None, frozen)["answer"]
    assert ran == [3] * LAYERS and found.keys() == set(loss.needs["answer"])
    plain = [alone(base, item)[0] for item in ROWS]
    if "base" in found:
        check(found["base"], plain)
    check(rows.entries["answer"], [alone(base, item)[1][2] for item in ROWS])


def test_references_lie_on_the_cpu_and_hold_no_gradient(base):
    found = compute(base, ASU(rule_out=True), rows_of(answer=ROWS), Teacher(TAU, fluency=masks()))["answer"]
    for tensors in found.values():
        assert all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in tensors)


def test_anchoring_wants_a_mask_a_row():
    teacher, plain = [torch.zeros(2, 3), torch.zeros(2, 3)], [torch.ones(2, 3), torch.ones(2, 3)]
    mask = torch.tensor([False, True])
    found = anchored(teacher, plain, [mask, ~mask])
    assert found[0].tolist() == [[0, 0, 0], [1, 1, 1]] and found[1].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert not any(states.any() for states in teacher)  # which another run may be given
    with pytest.raises(ValueError, match="shorter"):
        anchored(teacher, plain, [mask])
    with pytest.raises(ValueError, match="shorter"):
        anchored(teacher, plain[:1], [mask, mask])


@pytest.mark.parametrize("first", [None, 1, 2])
@pytest.mark.parametrize(
    "loss", [ASU(rule_out=True), ASU(), DPO(), GA(), NPO(), KLAnswers(), RMU()], ids=lambda loss: loss.name
)
def test_what_is_kept_is_not_read_again_and_is_the_same(base, ran, loss, first):
    """By another loss first, at another entry, with another tau and other rows: each has its own."""
    if loss.layer is not None:
        loss.layer = 2
    frozen = first and find_frozen_layers(base.model, first)
    views = {view: ROWS for view in loss.needs}
    teacher = Teacher(TAU, [2, 3], masks())
    kept, alone_again = KeptStates(), rows_of(**views)
    others = [
        (rows_of(answer=OTHERS), Teacher(TAU, [2, 3]), frozen),
        (rows_of(answer=ROWS), Teacher(1.7, [2, 3], masks()), frozen),
    ]
    others += [(rows_of(answer=ROWS), teacher, find_frozen_layers(base.model, 3))]
    for rows, another, entry in others:
        compute_references(base, TrainingSet(ASU(), rows), another, entry, kept=kept)
    compute_references(base, TrainingSet(loss, alone_again), teacher, frozen)
    for _ in range(2):
        again = rows_of(**views)
        ran[:] = [0] * LAYERS
        compute_references(base, TrainingSet(loss, again), teacher, frozen, kept=kept)
        for found, expected in ((again.entries, alone_again.entries), *zip_views(again, alone_again)):
            assert found.keys() == expected.keys()
            assert all(torch.equal(a, b) for key in found for a, b in zip(found[key], expected[key], strict=True))
    assert ran == [0] * LAYERS


def test_which_losses_look_at_the_plain_base():
    found = {name for name, loss in (FORGET | RETAIN).items() if any(map(needs_base, loss.needs.values()))}
    assert found == {"npo", "dpo", "altpo", "undial", "js", "kl", "kl-answers"}
