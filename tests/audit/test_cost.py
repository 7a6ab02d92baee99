"""What makes an audit cheap changes nothing that it finds."""

import pytest
import torch

from asu_lora.audit.decoding import Pass, decode
from asu_lora.audit.whole_weights import whole_weights
from asu_lora.models.adapter_stack import load
from asu_lora.models.generation import generate_answers
from asu_lora.models.loading import load_base
from tests.support.lora_folders import save_lora


@pytest.fixture(scope="module")
def stacked(taught_base, tmp_path_factory):
    folder = save_lora(taught_base, tmp_path_factory.mktemp("cost") / "anna", 1, size=0.08)
    return load(load_base(str(taught_base), "nf4", "cpu"), [folder])


def states(stacked):
    ids = torch.tensor([[5, 6, 7, 8], [9, 4, 3, 2]])
    return stacked.model(input_ids=ids).logits


def test_weights_that_are_held_whole_give_the_same_to_the_last_bit(stacked):
    packed = states(stacked)
    with whole_weights(stacked.model) as layers:
        held = states(stacked)
        forwards = [module for module in stacked.model.modules() if "forward" in vars(module)]
        assert layers == len(forwards) == 14  # seven linear layers in each of two
    assert torch.equal(packed, held)
    assert not [module for module in stacked.model.modules() if "forward" in vars(module)]


def test_gradients_go_through_them_alike(stacked):
    def gradient():
        layer = next(module for module in stacked.model.modules() if hasattr(module, "quant_state"))
        states_in = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(0), requires_grad=True)
        layer(states_in).square().sum().backward()
        return states_in.grad

    packed = gradient()
    with whole_weights(stacked.model):
        assert torch.equal(packed, gradient())


def test_without_room_the_weights_stay_packed(stacked, monkeypatch):
    monkeypatch.setattr("asu_lora.audit.whole_weights.SHARE", 0.0)
    with whole_weights(stacked.model) as layers:
        assert layers == 0


def test_rows_that_leave_a_batch_take_nothing_from_the_rest(taught_base):
    base = load_base(str(taught_base), "fp32", "cpu")
    words = range(4, base.model.config.vocab_size)
    prompts = [tuple(words[3 * at : 3 * at + size]) for at, size in enumerate((9, 2, 5, 5, 1, 7))]
    prompts += [prompts[2], prompts[0]]  # read once, written apart
    rooms = [12, 3, 9, 1, 20, 12, 9, 4]
    passes = [Pass(base.model, torch.no_grad)]
    told = decode(passes, lambda logits: logits[0].argmax(-1), base.tokenizer, prompts, rooms)
    alone = [
        generate_answers(base.model, base.tokenizer, [prompt], new_tokens=room)[0]
        for prompt, room in zip(prompts, rooms, strict=True)
    ]
    assert told == alone
    assert len({len(answer) for answer in told}) > 2
