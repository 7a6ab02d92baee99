"""A batch that gets smaller as its answers end writes what each prompt gets alone."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from asu_lora.data.chat_template import stop_ids
from asu_lora.evaluation.set_scores import score_set, score_sets
from asu_lora.models import greedy
from asu_lora.models.generation import generate_answers
from tests.support.listener import Listener
from tests.support.tiny_base import tiny_tokenizer
from tests.support.tiny_run import encoded_facts, rows


def alone(model, tokenizer, prompt, room):
    """Token by token, without cache, padding or ``generate``."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + room:
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token in stop_ids(tokenizer):
                break
            ids.append(token)
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def prompts(taught_base):
    """Facts, whose answers end after some tokens, and nonsense, whose answers go on and on."""
    facts = [list(item.prompt_ids) for item in encoded_facts(taught_base)]
    return [facts[0], [40, 50, 60], facts[3], list(range(50, 90)), facts[1] * 2, facts[5][:9]]


ROOMS = [60, 47, 5, 33, 64, 17]


def test_each_prompt_has_its_own_room_and_rows_that_have_ended_leave(base, prompts, monkeypatch):
    widths = []
    forward = base.model.forward
    monkeypatch.setattr(base.model, "forward", lambda *a, **k: widths.append(len(k["input_ids"])) or forward(*a, **k))
    told = generate_answers(base.model, base.tokenizer, prompts, rooms=ROOMS)
    monkeypatch.undo()
    assert told == [alone(base.model, base.tokenizer, p, room) for p, room in zip(prompts, ROOMS, strict=True)]
    assert {len(answer) == room for answer, room in zip(told, ROOMS, strict=True)} == {True, False}
    assert len(widths) - max(map(len, told)) in (0, 1)  # 1 for the end of turn: nobody waits for a row that has ended
    assert widths == sorted(widths, reverse=True) and widths[0] == len(prompts) > widths[-1]


@pytest.mark.parametrize("kind", ["positions that are counted", "a sliding window, which is written in one go"])
def test_other_architectures_write_the_same(kind):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    # weights so large that what is written depends on every token before it
    sizes = dict(vocab_size=320, eos_token_id=tokenizer.eos_token_id, initializer_range=0.5)
    model = (
        GPT2LMHeadModel(GPT2Config(n_positions=128, n_embd=32, n_layer=2, n_head=2, **sizes))
        if kind.startswith("positions")
        else MistralForCausalLM(
            MistralConfig(
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                sliding_window=8,
                **sizes,
            )
        )
    ).eval()
    prompts, rooms = [[40] * 3, list(range(60, 90)), [70, 71]], [50, 40, 20]
    told = generate_answers(model, tokenizer, prompts, rooms=rooms)
    assert len(set(told[0][-10:])) > 3
    assert told == [alone(model, tokenizer, p, room) for p, room in zip(prompts, rooms, strict=True)]


def test_sets_that_are_answered_together_have_the_scores_of_each_alone(base, monkeypatch):
    from accelerate import PartialState

    from asu_lora.data.encoding import Encoder
    from asu_lora.data.examples import question_answer

    encoder = Encoder(base.tokenizer)
    examples = [question_answer(**row) for row in rows()]
    sets = {"forget": examples[:5], "nothing": [], "retain": [question_answer("?", "no"), *examples[5:]]}
    calls, write = [], greedy.write_greedily
    monkeypatch.setattr("asu_lora.models.generation.write_greedily", lambda *a, **k: calls.append(1) or write(*a, **k))
    heard = Listener()
    found = score_sets(base.model, base, encoder, sets, "before", progress=heard, process=PartialState(cpu=True))
    assert len(calls) == 1 and heard.stages == ["Answers, before"]
    assert list(found) == ["forget", "retain"]
    for name, scores in found.items():
        single = score_set(base.model, base.head, base.tokenizer, encoder, sets[name])
        assert (scores.answers, scores.rouge, scores.endings) == (single.answers, single.rouge, single.endings)
        assert scores.probability == pytest.approx(single.probability)
