"""The lean KL against plain autograd in fp64, and what it holds at once."""

import pytest
import torch
from transformers import LlamaForCausalLM

from asu_lora.losses.answers import Answers
from asu_lora.losses.token_kl import token_kl
from asu_lora.memory_plan.meta_simulation import LiveBytes
from asu_lora.models.output_head import FrozenHead
from tests.support.shaped_heads import shaped_model
from tests.support.tiny_base import tiny_config

TOKENS, WORDS = 24, 97
FORBIDDEN = torch.tensor([0, 5, 96])


def plain_kl(head, hidden, reference, last, forbidden, ruled_out, *, temperature=1.0):
    """With -inf for what is taken out, and 0 log 0 = 0 by leaving those tokens out of the sum."""
    target = head.logits(reference).double() / temperature
    student = (head.logits(hidden).double() / temperature).log_softmax(1)
    values = []
    for token in range(TOKENS):
        gone = set() if forbidden is None or last[token] else set(forbidden.tolist())
        gone |= set() if ruled_out is None else set(ruled_out[token].tolist()) - {-1}
        left = torch.tensor([i for i in range(WORDS) if i not in gone])
        log_p = target[token, left].log_softmax(0)
        values.append((log_p.exp() * (log_p - student[token, left])).sum())
    return temperature**2 * torch.stack(values)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("model", ["llama", "soft cap", "multiplied"])
@pytest.mark.parametrize("forbidden", [None, FORBIDDEN])
@pytest.mark.parametrize("rule_out", [False, True])
def test_values_and_gradients(model, forbidden, rule_out, temperature):
    head = FrozenHead(shaped_model(model))
    torch.manual_seed(1)
    size = head.module.in_features
    hidden, reference = 5 * torch.randn(TOKENS, size), 5 * torch.randn(TOKENS, size)
    hidden.requires_grad_()
    row = torch.arange(TOKENS) // 5
    answers = Answers(head, hidden, torch.zeros(TOKENS, dtype=torch.long), row, 5)
    # an id twice, the forbidden 0 as well as -1, and a token for which nothing is ruled out
    ruled_out = torch.randint(-1, WORDS, (TOKENS, 6), dtype=torch.int32) if rule_out else None
    if rule_out:
        ruled_out[0], ruled_out[1], ruled_out[2] = torch.tensor([[3, 3, -1, 0, 5, -1], [-1] * 6, [-1, 0, -1, 0, 1, 2]])
    upstream = torch.linspace(-1, 2, TOKENS)
    found = token_kl(answers, reference, forbidden, ruled_out, temperature)
    expected = plain_kl(head, hidden, reference, answers.last(), forbidden, ruled_out, temperature=temperature)
    slopes = [torch.autograd.grad(value, hidden, upstream.to(value.dtype))[0] for value in (found, expected)]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6 * temperature**2)
    assert (slopes[0] - slopes[1]).norm() <= 1e-5 * slopes[1].norm()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_four_buffers_of_a_chunk_live_at_once(dtype, temperature):
    words, chunk = 50_000, 80
    with torch.device("meta"):
        model = LlamaForCausalLM(tiny_config(vocab_size=words)).to(dtype).requires_grad_(False)
        hidden, reference = (torch.empty(300, 64, dtype=dtype) for _ in range(2))
        row, ruled_out = torch.zeros(300, dtype=torch.long), torch.zeros(300, 8, dtype=torch.int32)
    head, live = FrozenHead(model), LiveBytes(words)
    head.chunk = lambda: chunk
    live.ignore(model.parameters())
    with live, torch.enable_grad():
        answers = Answers(head, hidden.requires_grad_(), row, row, 1)
        token_kl(answers, reference, FORBIDDEN.to("meta"), ruled_out, temperature).sum().backward()
    assert 2 < live.peak[1] / (chunk * words * 4) <= 4
