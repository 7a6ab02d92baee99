"""The scores of a forget run, on a passage of several windows."""

import math

import pytest

from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example
from asu_lora.evaluation.set_scores import example_probabilities, score_set
from asu_lora.models.decoder import base_model
from asu_lora.models.loading import load_base
from asu_lora.models.output_head import FrozenHead
from tests.support import independent_metrics as independent
from tests.support.tiny_run import FACTS

PASSAGE = " ".join(f"{name} {does}, as everybody knows." for name, does in FACTS)


def test_every_window_of_a_passage_counts_in_a_forget_runs_probability(taught_base):
    base = load_base(str(taught_base), "fp32", "cpu")
    encoder, passage = Encoder(base.tokenizer, max_length=64), Example((), PASSAGE, {}, 1)
    windows = encoder.encode(passage)
    scores = score_set(base.model, FrozenHead(base_model(base.model)), base.tokenizer, encoder, [passage])
    losses = []
    for window in windows:
        ids = [*window.prompt_ids, *window.answer_ids]
        losses += [independent.nll(base.model, ids, 1)] * len(window.answer_ids)
    assert len(windows) > 3 and scores.answers == []
    assert scores.probability == [pytest.approx(math.exp(-sum(losses) / len(losses)), rel=1e-3)]
    assert math.exp(
        -independent.nll(base.model, [*windows[-1].prompt_ids, *windows[-1].answer_ids], 1)
    ) != pytest.approx(scores.probability[0], rel=1e-2)


def test_windows_are_told_apart_by_their_example():
    import torch

    from asu_lora.data.encoding import Encoded

    items = [Encoded((1,), (2, 3), 0), Encoded((3,), (4,), 0), Encoded((1,), (2,), 1)]
    logprobs = [torch.tensor([-1.0, -2.0]), torch.tensor([-6.0]), torch.tensor([-0.5])]
    assert example_probabilities(items, logprobs) == pytest.approx([math.exp(-3), math.exp(-0.5)])
