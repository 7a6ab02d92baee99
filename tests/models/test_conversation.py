"""A conversation: answers as they come are the answers asked for at once; turns, weights and adapters are what they say."""

import pytest

import asu_lora
from asu_lora.errors import AsuLoraError, BaseModelError, DataError
from asu_lora.models.answer_ends import Endings
from asu_lora.models.conversation import Conversation
from asu_lora.models.generation import generate_answers
from asu_lora.models.streaming import _Told, streamed_answer
from tests.support.tiny_base import TEMPLATE
from tests.support.tiny_run import FACTS, rows

ASKED = [row["question"] for row in rows(FACTS)]


@pytest.fixture
def talk(base, forgetting_adapter, snapshot):
    stack = asu_lora.load(base, [forgetting_adapter])
    yield Conversation(stack)
    stack.unload()


def test_the_pieces_make_up_the_answer_that_is_given_at_once(base, snapshot):
    encoder = asu_lora.load(base).encoder()
    prompts = [encoder.prompt_ids([{"role": "user", "content": asked}]) for asked in ASKED[:4]]
    at_once = generate_answers(base.model, base.tokenizer, prompts, new_tokens=40)
    for prompt, ids in zip(prompts, at_once, strict=True):
        pieces, endings = [], Endings()
        answer = streamed_answer(base.model, base.tokenizer, prompt, 40, pieces.append, endings)
        assert answer == base.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert "".join(pieces) == answer and len(pieces) > 1
        assert endings.answers == 1


def test_logits_that_are_not_finite_are_refused_before_a_word_is_told(base, snapshot):
    pieces, weight = [], base.model.model.norm.weight.data
    kept = weight.clone()
    try:
        weight[0] = float("nan")
        with pytest.raises(BaseModelError, match="The logits of LlamaForCausalLM are not finite"):
            streamed_answer(base.model, base.tokenizer, [1, 2, 3], 10, pieces.append)
    finally:
        weight.copy_(kept)
    assert pieces == []


def test_half_a_character_waits_for_the_other_half():
    heard = []
    told = _Told(heard.append)
    for text in ("caf", "caf\ufffd", "café", "café x"):
        told.so_far(text)
    assert heard == ["caf", "é", " x"]


def test_turns_are_remembered_and_change_what_comes_after(talk):
    first = talk.say(ASKED[6])
    assert first == f"{FACTS[6][0]} {FACTS[6][1]}."  # it was kept
    talk.say(ASKED[7])
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"] * 2
    with_history = talk.encoder.prompt_ids([*talk.turns, {"role": "user", "content": "And?"}])
    talk.clear()
    assert len(with_history) > len(talk.encoder.prompt_ids([{"role": "user", "content": "And?"}])) + 20
    assert talk.say(ASKED[6]) == first


def test_the_base_answers_beside_and_adapters_go_off_and_on(talk):
    fact = f"{FACTS[0][0]} {FACTS[0][1]}."
    answer = talk.say(ASKED[0])
    assert answer != fact and talk.base_says() == fact
    assert talk.adapters_say() == answer and len(talk.turns) == 2
    talk.clear()
    talk.on = False
    assert talk.say(ASKED[0]) == fact and not talk.adapted


def test_a_weight_is_the_weight_the_stack_would_have_been_loaded_with(talk, base, forgetting_adapter):
    name = talk.stack.adapters[0][0]
    talk.weigh(name, 0)
    assert talk.say(ASKED[0]) == f"{FACTS[0][0]} {FACTS[0][1]}."  # the base's
    talk.clear()
    talk.weigh(name, 0.5)
    half = talk.say(ASKED[0])
    talk.stack.unload()
    again = asu_lora.load(base, [(forgetting_adapter, 0.5)])
    try:
        assert Conversation(again).say(ASKED[0]) == half
    finally:
        again.unload()


def test_what_cannot_be_done_is_one_sentence(talk):
    with pytest.raises(AsuLoraError, match="Nothing was asked yet"):
        talk.base_says()
    with pytest.raises(AsuLoraError, match="There is no adapter 'other' here"):
        talk.weigh("other", 1)


def test_the_oldest_turns_go_where_the_base_has_no_room(talk):
    talk.turns = [{"role": role, "content": "word " * 20} for _ in range(40) for role in ("user", "assistant")]
    talk.say(ASKED[6])
    assert 2 <= len(talk.turns) < 82
    assert talk.turns[0]["role"] == "user" and talk.turns[-2]["content"] == ASKED[6]


def test_a_template_that_takes_one_turn_says_so_and_no_turn_is_let_go(talk, monkeypatch):
    one = "{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + TEMPLATE
    monkeypatch.setattr(talk.stack.base.tokenizer, "chat_template", one)
    talk.say(ASKED[6])
    with pytest.raises(DataError, match="one turn only"):
        talk.say(ASKED[7])
    assert [turn["content"] for turn in talk.turns[::2]] == [ASKED[6]]
