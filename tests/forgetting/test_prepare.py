"""From a request to targets, as a run does it: what the default method adds to the paper's is really there."""

import pytest
import torch

from asu_lora.data.chat_template import special_ids
from asu_lora.data.encoding import Encoder
from asu_lora.forgetting.prepare import prepare
from asu_lora.forgetting.run import open_run
from asu_lora.forgetting.targets import add_targets, choose_teacher
from asu_lora.losses import RETAIN
from asu_lora.losses.forget.asu import ASU
from asu_lora.models.hidden_states import hidden_states
from asu_lora.models.loading import load_base
from asu_lora.teacher.fluency import NOTHING
from asu_lora.teacher.teacher_states import teacher_states
from tests.support.tiny_run import tiny_request, tiny_settings


@pytest.fixture(scope="module")
def base(taught_base):
    return load_base(str(taught_base), "fp32", "cpu")


def targets(base, store, **changes):
    """The sets of a run, with their targets, and its teacher."""
    with open_run(tiny_request(), base, tiny_settings(**changes), store=store) as run:
        sets = prepare(run)
        teacher = choose_teacher(run, sets["forget"])
        add_targets(run, sets, teacher)
    return sets, teacher


@pytest.mark.parametrize("layers", ["all", "1"])
def test_at_anchors_the_target_is_the_plain_base_and_elsewhere_the_teacher(base, tmp_path, layers):
    sets, teacher = targets(base, tmp_path, smooth_layers=layers, adapter_layers=layers)
    rows = sets["forget"].rows
    plain = hidden_states(base.model, rows.answers, base.pad_id)
    smoothed = teacher_states(base.model, rows.answers, base.pad_id, 3.0, teacher.layers)
    kept_somewhere = 0
    for found, own, hot, kept in zip(
        rows.references["answer"]["teacher"], plain, smoothed, teacher.fluency.anchors, strict=True
    ):
        torch.testing.assert_close(found[kept], own[kept], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[~kept], hot[~kept], rtol=1e-5, atol=1e-5)
        assert (hot[kept] - own[kept]).abs().max() > 1e-2  # so that the two can be told apart
        kept_somewhere += int(kept.sum())
    assert kept_somewhere > len(rows)


@pytest.mark.parametrize("objective", ["asu", "asu+idk"])
def test_special_tokens_and_said_words_are_taken_out_of_the_teacher(base, tmp_path, objective):
    sets, teacher = targets(base, tmp_path, objective=objective)
    loss = sets["forget"].loss if objective == "asu" else sets["forget"].loss.asu
    assert isinstance(loss, ASU) and loss.rule_out
    assert loss.forbidden.tolist() == special_ids(base.tokenizer)
    tables = sets["forget"].rows.references["answer"]["ruled_out"]
    assert all(torch.equal(*pair) for pair in zip(tables, teacher.fluency.ruled_out, strict=True))
    for row, table in zip(sets["forget"].rows.answers, tables, strict=True):
        ruled = {i for ids in table.tolist() for i in ids if i != NOTHING}
        assert ruled & set(row.answer_ids), "no word of the answer is ruled out"


def test_the_papers_loss_has_neither(base, tmp_path):
    sets, teacher = targets(base, tmp_path, keep_speaking=False)
    loss, rows = sets["forget"].loss, sets["forget"].rows
    assert loss.forbidden is None and not loss.rule_out and teacher.fluency is None
    assert rows.references["answer"].keys() == {"teacher"}
    smoothed = teacher_states(base.model, rows.answers, base.pad_id, 3.0)
    for found, hot in zip(rows.references["answer"]["teacher"], smoothed, strict=True):
        torch.testing.assert_close(found, hot, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("retain", [*RETAIN])
def test_retain_targets_are_the_plain_base(base, tmp_path, retain):
    """The divergence in the answers has targets there; the authors' at every position, padding too."""
    sets, _ = targets(base, tmp_path, retain_loss=retain)
    rows = sets["retain"].rows
    assert rows.answers == Encoder(base.tokenizer).encode_all(tiny_request().retain)
    for view, wanted in sets["retain"].loss.needs.items():
        assert rows.references.get(view, {}).keys() == set(wanted)
    if retain == "kl-answers":
        plain = hidden_states(base.model, rows.answers, base.pad_id)
        for found, own in zip(rows.references["answer"]["base"], plain, strict=True):
            torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
    if retain == "kl":
        width = max(map(len, rows.answers))
        ids, mask = torch.full((len(rows), width), base.pad_id), torch.zeros(len(rows), width, dtype=torch.long)
        for at, item in enumerate(rows.answers):
            ids[at, : len(item)] = torch.tensor(item.prompt_ids + item.answer_ids)
            mask[at, : len(item)] = 1
        with torch.no_grad():
            padded = base.model.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        assert mask.sum() < mask.numel()
        for found, own in zip(rows.references["positions"]["base"], padded, strict=True):
            torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
