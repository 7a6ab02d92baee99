"""Examples into tokens, with the chat templates of several families on one tiny tokenizer."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.data.chat_template import end_of_turn_text, special_ids, stop_ids
from asu_lora.data.encoding import PLAIN_PROMPT, Encoder
from asu_lora.data.examples import Example, examples_from_rows, question_answer
from asu_lora.errors import DataError
from tests.support.tiny_base import TEMPLATE, tiny_tokenizer


@dataclass(frozen=True)
class Family:
    """A template as its family's tokenizers carry it; ``spoken`` is how it writes a question and its answer."""

    template: str | None
    bos: str | None
    eos: str
    special: tuple[str, ...]
    end: str
    asked: str
    answered: str
    system: bool = True
    plain: tuple[str, ...] = ()  # added tokens that are not marked as special


FAMILIES = {
    "ChatML": Family(
        TEMPLATE,
        None,
        "<|im_end|>",
        ("<|im_start|>",),
        "<|im_end|>",
        "<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n",
        "A<|im_end|>",
    ),
    "Llama 3": Family(
        "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{Q}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "A<|eot_id|>",
    ),
    "Gemma": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
        "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
        "<bos>",
        "<eos>",
        (),
        "<end_of_turn>",
        "<bos><start_of_turn>user\n{Q}<end_of_turn>\n<start_of_turn>model\n",
        "A<end_of_turn>",
        system=False,
        plain=("<start_of_turn>", "<end_of_turn>"),
    ),
    "Mistral": Family(
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token}}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
        (),
        "</s>",
        "<s>[INST] {Q} [/INST]",
        " A</s>",
        system=False,
    ),
    "Phi 3": Family(
        "{% for message in messages %}{{'<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        None,
        "<|eos|>",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<|end|>",
        "<|user|>\n{Q}<|end|>\n<|assistant|>\n",
        "A<|end|>",
    ),
    "Alpaca": Family(
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '### Response:\n' }}{% else %}"
        "{{ '### Instruction:\n' }}{% endif %}{{ message['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
        "<s>",
        "</s>",
        (),
        "</s>",
        "### Instruction:\n{Q}\n\n### Response:\n",
        "A</s>",
    ),
    "no template": Family(None, "<s>", "</s>", (), "</s>", "Question: {Q}\nAnswer:", " A</s>"),
}


def tokenizer_of(family: Family):
    from tokenizers import AddedToken

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"eos_token": family.eos} | ({"bos_token": family.bos} if family.bos else {}))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in family.special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain])
    tokenizer.chat_template = family.template
    return tokenizer


def adding_bos(tokenizer):
    """The tokenizer, putting its BOS before every text, as Llama's and Gemma's do."""
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def said(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def test_prompt_and_answer_stand_as_the_template_writes_them(family):
    tokenizer = tokenizer_of(family)
    [item] = Encoder(tokenizer).encode(question_answer("Who wrote Ash?", "Anna Berg."))
    assert said(tokenizer, item.prompt_ids) == family.asked.replace("{Q}", "Who wrote Ash?")
    assert said(tokenizer, item.answer_ids) == family.answered.replace("A", "Anna Berg.", 1)
    assert not item.cut


def test_an_answer_ends_with_one_end_of_turn_token(family):
    tokenizer = tokenizer_of(family)
    assert end_of_turn_text(tokenizer) == family.end
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert stop_ids(tokenizer) == sorted({end, tokenizer.eos_token_id})
    assert set(stop_ids(tokenizer)) <= set(special_ids(tokenizer))
    [item] = Encoder(tokenizer).encode(question_answer("Who?", "Anna."))
    assert item.answer_ids[-1] == end and item.answer_ids.count(end) == 1


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.template and name != "Alpaca"])
def test_together_they_are_the_beginning_of_the_whole_conversation(name):
    tokenizer = tokenizer_of(FAMILIES[name])
    turns = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Anna."},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "In 1907."},
    ]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    last = Encoder(tokenizer).encode_all(examples_from_rows([{"messages": turns}], "rows"))[-1]
    assert whole.startswith(said(tokenizer, last.prompt_ids + last.answer_ids))


def test_a_conversation_gives_one_item_a_turn(family):
    tokenizer = tokenizer_of(family)
    turns = [
        {"role": role, "content": text}
        for role, text in (("user", "Who?"), ("assistant", "Anna."), ("user", "When?"), ("assistant", "In 1907."))
    ]
    first, second = Encoder(tokenizer).encode_all(examples_from_rows([{"messages": turns}], "rows"))
    assert said(tokenizer, first.answer_ids).strip() == "Anna." + family.end
    assert said(tokenizer, second.answer_ids).strip() == "In 1907." + family.end
    text = said(tokenizer, second.prompt_ids)
    assert text.index("Who?") < text.index("Anna.") < text.index("When?")
    assert (first.example, second.example) == (0, 1)


def test_a_template_without_system_turns_says_so(family):
    encoder = Encoder(tokenizer_of(family))
    turns = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"})
    if family.system:
        assert "Be short." in encoder.prompt_text(turns)
    else:
        with pytest.raises(DataError, match=r"refuses a conversation of turns system, user \(.+\)") as caught:
            encoder.encode(Example(turns, "Anna."))
        assert "\n" not in str(caught.value)


def test_a_broken_template_is_refused_in_one_line():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}"
    with pytest.raises(DataError, match="chat template refuses") as caught:
        Encoder(tokenizer).encode(question_answer("Who?", "Anna."))
    assert "\n" not in str(caught.value)


def test_braces_and_markers_in_a_question_are_text():
    tokenizer = tokenizer_of(FAMILIES["no template"])
    question = "What is {question} in {{ messages }}?"
    assert Encoder(tokenizer).prompt_text(question_answer(question, "x").prompt) == (
        PLAIN_PROMPT.replace("{question}", question)
    )


def test_a_bos_stands_before_plain_texts_only_where_the_tokenizer_itself_puts_one():
    question, passage = question_answer("Who?", "Anna."), Example((), "A passage.")
    without = tokenizer_of(FAMILIES["no template"])
    for tokenizer in (without, adding_bos(tokenizer_of(FAMILIES["no template"]))):
        [asked], [read] = Encoder(tokenizer).encode(question), Encoder(tokenizer).encode(passage)
        own = tokenizer("A passage.").input_ids
        assert list(read.prompt_ids + read.answer_ids) == own
        assert list(asked.prompt_ids) == tokenizer("Question: Who?\nAnswer:").input_ids
        assert (own[0] == tokenizer.bos_token_id) == (tokenizer is not without)


def test_sentencepiece_gets_one_space_before_an_answer():
    """Llama 2's and Mistral's tokenizers put a space before any text; a lone " Anna" would get two."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<unk>", "<s>", "</s>", *"▁:?\n", *map(chr, range(65, 91)), *map(chr, range(97, 123))]
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[], unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", bos_token="<s>", pad_token="<unk>")
    [item] = Encoder(tokenizer).encode(question_answer("Who?", "Anna"))
    assert tokenizer.convert_ids_to_tokens(list(item.answer_ids)) == [*"▁Anna", "</s>"]


def test_an_answer_that_tokenises_to_nothing_is_refused_by_its_row():
    from tokenizers import normalizers

    tokenizer = tiny_tokenizer()
    tokenizer._tokenizer.normalizer = normalizers.Replace("\u200b", "")
    rows = [{"question": "Who?", "answer": "Anna"}, {"question": "Who?", "answer": "\u200b"}]
    examples = examples_from_rows(rows, "f")
    with pytest.raises(DataError, match="answer of forget row 2 tokenises to nothing"):
        Encoder(tokenizer).encode_all(examples, "forget row")
    with pytest.raises(DataError, match="text of retain row 1 tokenises to nothing"):
        Encoder(tokenizer).encode_all(examples_from_rows([{"text": "\u200b"}], "f"), "retain row")


def test_answers_too_long_are_cut_and_prompts_too_long_refused():
    tokenizer = tiny_tokenizer()
    whole = Encoder(tokenizer).encode(question_answer("Who?", "Anna Berg."))[0]
    room = Encoder(tokenizer, max_length=len(whole)).encode(question_answer("Who?", "Anna Berg."))[0]
    assert room == whole
    cut = Encoder(tokenizer, max_length=len(whole) - 1).encode(question_answer("Who?", "Anna Berg."))[0]
    assert cut.cut and cut.answer_ids == whole.answer_ids[:-1] and cut.prompt_ids == whole.prompt_ids
    least = len(whole.prompt_ids) + 2
    assert len(Encoder(tokenizer, least).encode(question_answer("Who?", "Anna Berg."))[0]) == least
    with pytest.raises(DataError, match=f"prompt of row 1 takes {len(whole.prompt_ids)} tokens .* above {least - 1}"):
        Encoder(tokenizer, least - 1).encode(question_answer("Who?", "Anna Berg."))


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120).filter(str.strip),
    max_length=st.integers(2, 40),
    bos=st.booleans(),
)
def test_a_long_passage_is_split_without_losing_or_doubling_a_token(text, max_length, bos):
    tokenizer = BYTES_WITH_BOS if bos else BYTES
    ids = tokenizer(text, add_special_tokens=False).input_ids
    first, rest = ([tokenizer.bos_token_id], ids) if bos else (ids[:1], ids[1:])
    if not rest:
        with pytest.raises(DataError, match="single token"):
            Encoder(tokenizer, max_length).encode(Example((), text))
        return
    items = Encoder(tokenizer, max_length).encode(Example((), text))
    assert [token for item in items for token in item.answer_ids] == rest
    before = first + rest
    at = 0
    for item in items:
        assert 2 <= len(item) <= max_length and len(item.prompt_ids) == 1 and not item.cut
        assert item.prompt_ids[0] == before[at]  # each window begins with the token the last one ended with
        at += len(item.answer_ids)


BYTES = tokenizer_of(FAMILIES["ChatML"])
BYTES_WITH_BOS = adding_bos(tokenizer_of(FAMILIES["Llama 3"]))


@settings(max_examples=60, deadline=None)
@given(
    answer=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1, max_size=60).filter(
        str.strip
    ),
    max_length=st.integers(30, 120),
)
def test_an_answer_is_said_whole_or_from_its_beginning(answer, max_length):
    [item] = Encoder(BYTES, max_length).encode(question_answer("?", answer))
    full = BYTES(answer + "<|im_end|>", add_special_tokens=False).input_ids
    assert list(item.answer_ids) == full[: max_length - len(item.prompt_ids)]
    assert item.cut == (len(item.answer_ids) < len(full))


def test_examples_know_their_place():
    items = Encoder(BYTES, 12).encode_all([Example((), "A passage of some length."), Example((), "Short.")])
    assert [item.example for item in items] == [0, 0, 0, 1]


def test_a_tokenizer_without_an_end_of_text():
    tokenizer = tokenizer_of(FAMILIES["no template"])
    tokenizer.eos_token = None
    [item] = Encoder(tokenizer).encode(question_answer("Who?", "Anna."))
    assert said(tokenizer, item.answer_ids) == " Anna."
    assert stop_ids(tokenizer) == []
