"""The chunked head against plain autograd on full logits, on models whose logits are shaped in every known way."""

import pytest
import torch
from transformers import LlamaForCausalLM

from asu_lora.errors import BaseModelError
from asu_lora.losses.answers import Answers
from asu_lora.losses.token_kl import token_kl
from asu_lora.models import output_head as head_module
from asu_lora.models.output_head import FrozenHead, label_logprob
from tests.support.shaped_heads import SHAPED_HEADS, shaped_model
from tests.support.tiny_base import tiny_config


def negative_logprob(logits, labels, weight):
    return -label_logprob(logits, labels) * weight


def states(model, tokens: int):
    ids = torch.randint(1, 97, (1, tokens), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.get_decoder()(input_ids=ids).last_hidden_state[0], model(input_ids=ids).logits[0].float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SHAPED_HEADS)
def test_logits_are_the_models_own(name, dtype):
    model = shaped_model(name, dtype)
    hidden, expected = states(model, 12)
    got = FrozenHead(model).logits(hidden)
    assert got.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SHAPED_HEADS)
def test_values_and_gradients_against_full_logits(name, dtype, chunk, monkeypatch):
    model = shaped_model(name, dtype)
    head = FrozenHead(model)
    hidden, _ = states(model, 7)
    labels, weight = torch.arange(7) * 5, torch.linspace(0.5, 2, 7)
    upstream = torch.linspace(-1, 3, 7)  # each token's share of the loss is its own
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", chunk * head.vocabulary)

    chunked = hidden.clone().requires_grad_()
    values = head.per_token(negative_logprob, chunked, labels, weight)
    values.backward(upstream)
    full = hidden.clone().requires_grad_()
    expected = -head.logits(full).log_softmax(1)[torch.arange(7), labels] * weight
    expected.backward(upstream)

    assert values.dtype == torch.float32 and chunked.grad.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert torch.allclose(values, expected, rtol=tolerance, atol=tolerance)
    assert (chunked.grad - full.grad).norm() <= tolerance * full.grad.norm()


@pytest.mark.parametrize("tokens", [1, 2, 10, 33])
def test_chunking_bounds_the_logits_that_exist_at_once(tokens, monkeypatch):
    model = shaped_model("llama")
    head, seen = FrozenHead(model), []
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", 4 * 97 + 50)

    def mean(logits):
        seen.append(logits.numel())
        return logits.mean(1)

    hidden = torch.randn(tokens, 64, requires_grad=True)
    head.per_token(mean, hidden).sum().backward()
    assert max(seen) <= 4 * 97 and sum(seen) == tokens * 97


def test_no_logits_are_kept_for_the_backward_pass():
    """What autograd keeps is as large as the hidden states, whatever the vocabulary."""
    model = shaped_model("llama")
    hidden = torch.randn(50, 64, requires_grad=True)
    answers = Answers(FrozenHead(model), hidden, torch.arange(50), torch.zeros(50, dtype=torch.long), 1)
    losses = token_kl(answers, torch.randn(50, 64))  # held: older versions of torch free what it saved with it
    assert [tensor.shape for tensor in losses.grad_fn.saved_tensors] == [hidden.shape]


def test_without_gradients_nothing_is_saved():
    head = FrozenHead(shaped_model("llama"))
    values = head.per_token(lambda logits: logits.mean(1), torch.randn(5, 64))
    assert not values.requires_grad
    assert head.per_token(lambda logits: logits.mean(1), torch.randn(0, 64)).shape == (0,)


def test_the_heads_own_weights_get_no_gradient():
    model = shaped_model("llama").requires_grad_(True)
    hidden = torch.randn(5, 64, requires_grad=True)
    FrozenHead(model).per_token(lambda logits: logits.mean(1), hidden).sum().backward()
    assert hidden.grad is not None and all(p.grad is None for p in model.parameters())


class Shifted(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = self.change(output.logits)
        return output


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 1.1,
        lambda x: x.clamp(max=0),
        lambda x: x - x.mean(),
        lambda x: -x,
        lambda x: x[..., :-1],
        lambda x: x * float("nan"),
    ],
)
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_logits_shaped_in_an_unknown_way_are_refused_by_name(change, size):
    """Also where all logits are small, as in a model with a large divisor."""
    torch.manual_seed(0)
    model = Shifted(tiny_config(tie_word_embeddings=False)).eval()
    model.lm_head.weight.data *= size
    model.change = lambda logits: logits
    FrozenHead(model)
    model.change = change
    with pytest.raises(BaseModelError, match="Shifted does something to its logits"):
        FrozenHead(model)


def test_a_model_without_a_head_is_refused():
    model = shaped_model("llama")
    with pytest.raises(BaseModelError, match="no output head"):
        FrozenHead(model.model)


def test_a_scale_that_is_no_number_is_none():
    """MPT's config may say ``logit_scale="inv_sqrt_d_model"``, which transformers ignores."""
    model = shaped_model("llama")
    model.config.logit_scale = "inv_sqrt_d_model"
    assert FrozenHead(model).scale == 1.0
