"""A step shared out into micro-batches: as large as they say, and the adapter of one that isn't."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.batches.collator import Collator
from asu_lora.data.encoding import Encoded
from asu_lora.data.training_rows import TrainingRows
from asu_lora.errors import NotEnoughMemory
from asu_lora.forgetting.forget import forget
from asu_lora.losses import retain_loss
from asu_lora.training.trainer import UnlearningTrainer
from tests.support.adapter_weights import weights
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_request, tiny_settings


def test_a_run_in_micro_batches_gives_the_same_adapter(base, tmp_path, monkeypatch):
    """Through Trainer, with every kind of mean: over rows, over tokens, over rows of two views."""
    steps, batches, lost = [], [], {}
    compute_loss = UnlearningTrainer.compute_loss
    monkeypatch.setattr(
        UnlearningTrainer, "compute_loss", lambda *args, **kwargs: batches.append(1) or compute_loss(*args, **kwargs)
    )
    for objective, retain in (("asu", "kl"), ("asu+idk", "gd"), ("dpo", "ap"), ("me", "gd")):
        for tokens in (10**6, 1):
            name = f"{objective.replace('+', '')}-{retain}-{tokens}"
            batches.clear()
            forget(
                tiny_request(),
                base,
                tiny_settings(
                    objective=objective,
                    retain_loss=retain,
                    micro_batch_tokens=tokens,
                    batch_size=4,
                    optimizer="sgd",
                    lr=0.1,
                    epochs=1,
                    own_words=0,
                ),
                name=name,
                store=tmp_path,
            )
            steps.append(len(batches))
            lost[tokens] = json.loads((tmp_path / name / "manifest.json").read_text())["training"]["train_loss"]
        whole, shared = (weights(tmp_path, f"{objective.replace('+', '')}-{retain}-{tokens}") for tokens in (10**6, 1))
        assert all(torch.allclose(whole[key], shared[key], atol=2e-6) for key in whole)
        assert any(value.abs().max() > 1e-3 for key, value in whole.items() if "lora_B" in key)
        assert lost[1] == pytest.approx(lost[10**6], rel=1e-4)
    assert steps[::2] == [2] * 4 and steps[1::2] == [12] * 4  # a row each


def test_a_run_that_did_not_fit_goes_on_with_less(base, tmp_path, monkeypatch):
    """Smaller micro-batches and checkpointing are no other run: the adapter is the same up to rounding."""
    options = dict(batch_size=4, optimizer="sgd", lr=0.1, own_words=0)
    forget(tiny_request(), base, tiny_settings(**options), name="whole", store=tmp_path)
    step, taken = UnlearningTrainer.training_step, []

    def full(*args):
        taken.append(1)
        if len(taken) == 4:  # 2 steps an epoch: in the second epoch
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(*args)

    with monkeypatch.context() as patch, pytest.raises(NotEnoughMemory, match="--micro-batch-tokens"):
        patch.setattr(UnlearningTrainer, "training_step", full)
        forget(tiny_request(), base, tiny_settings(**options), name="broken", store=tmp_path)
    heard = Listener()
    forget(
        tiny_request(),
        base,
        tiny_settings(**options, micro_batch_tokens=64, gradient_checkpointing=True),
        name="broken",
        store=tmp_path,
        resume=True,
        progress=heard,
    )
    assert len(heard.figures) == 4
    whole, broken = (weights(tmp_path, name) for name in ("whole", "broken"))
    assert all(torch.allclose(whole[key], broken[key], atol=1e-5) for key in whole)
    assert any(value.abs().max() > 1e-3 for key, value in whole.items() if "lora_B" in key)
    less = tiny_settings(micro_batch_tokens=64)
    assert less.identity() == tiny_settings().identity()
    assert replace(less, dropout=0.1).identity() != tiny_settings(dropout=0.1).identity()


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(2, 120), st.integers(2, 40)), min_size=1, max_size=12),
    most=st.integers(64, 600),
)
def test_micro_batches_hold_what_they_say(lengths, most):
    """Rows of two views, a long answer and a short refusal: padding to one length adds little."""
    views = {
        "answer": [Encoded((1,), (2,) * (long - 1)) for long, _ in lengths],
        "idk": [Encoded((1,), (2,) * (short - 1)) for _, short in lengths],
    }
    collator = Collator({"retain": TrainingRows(views)}, {"retain": retain_loss("ap").needs}, 0, most_tokens=most)
    batches = collator([(0, list(range(len(lengths))))])["micro_batches"]
    rows = collator.rows([(0, list(range(len(lengths))))])
    for part, batch in zip(collator.parts(rows), batches, strict=True):
        tokens = sum(each["input_ids"].numel() for each in batch["passes"])
        assert tokens == collator.tokens([rows[i] for i in part])
        assert len(part) == 1 or tokens <= 1.1 * most + most // 8 + 8 * len(part)
    assert sum(batch["sets"]["retain"]["answer"]["rows"] for batch in batches) == len(lengths)
