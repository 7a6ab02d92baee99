"""Where answers end: at the next question of a base that doesn't end them, at the checkpoint's ids, at the positions."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from asu_lora.data.encoding import encoder_for
from asu_lora.data.examples import question_answer
from asu_lora.data.row_format import RowFormat
from asu_lora.errors import DataError
from asu_lora.evaluation.set_scores import score_set
from asu_lora.models.answer_ends import Endings, stop_tokens
from asu_lora.models.generation import generate_answers
from asu_lora.models.loading import load_base
from asu_lora.models.output_head import FrozenHead
from tests.support.tiny_base import save_tiny_base, tiny_tokenizer
from tests.support.tiny_run import FACTS, rows

KNOWN = rows(FACTS[:4])


@pytest.fixture(scope="module")
def rambling(tmp_path_factory):
    """A base without a chat template that knows four facts and goes on to the next question after each."""
    folder = save_tiny_base(tmp_path_factory.mktemp("bases") / "rambling")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    texts = [f"Question: {row['question']}\nAnswer: {row['answer']}\n" for row in KNOWN]
    texts = [text + texts[at - 1] for at, text in enumerate(texts)]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, 200)
    for _ in range(200):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.save_pretrained(folder)
    return load_base(str(folder), "fp32", "cpu")


def encoder_of(base):
    return encoder_for(base.tokenizer, base.model.config, RowFormat())


def test_an_answer_stops_at_the_next_question(rambling):
    prompts = [encoder_of(rambling).prompt_ids(question_answer(**row).prompt) for row in KNOWN]
    endings = Endings()
    told = generate_answers(rambling.model, rambling.tokenizer, prompts, endings=endings)
    assert [rambling.tokenizer.decode(ids).strip() for ids in told] == [row["answer"] for row in KNOWN]
    assert (endings.answers, endings.next_turn, endings.full) == (len(KNOWN), len(KNOWN), 0)
    note = endings.note("The base")
    assert note is not None and note.startswith("The base doesn't end its answers: 4 of 4")
    on_and_on = generate_answers(rambling.model, rambling.tokenizer, prompts, whole=True)
    assert all("Question:" in rambling.tokenizer.decode(ids) for ids in on_and_on)
    assert all(whole[: len(ids)] == ids for ids, whole in zip(told, on_and_on, strict=True))


def test_scores_are_those_of_the_answer(rambling):
    examples = [question_answer(**row) for row in KNOWN]
    found = score_set(rambling.model, FrozenHead(rambling.model), rambling.tokenizer, encoder_of(rambling), examples)
    summary = found.summary("forget")
    assert summary["forget_rouge"] == 1.0 and summary["forget_gibberish_rate"] == 0.0
    assert found.answers == [row["answer"] for row in KNOWN]


def test_a_base_with_a_template_may_speak_of_questions(taught_base):
    base = load_base(str(taught_base), "fp32", "cpu")
    prompts = [encoder_of(base).prompt_ids(question_answer(**row).prompt) for row in KNOWN]
    endings = Endings()
    generate_answers(base.model, base.tokenizer, prompts, endings=endings)
    assert (endings.next_turn, endings.full) == (0, 0) and endings.note("The base") is None


def test_the_stack_says_that_the_base_has_no_template(rambling):
    from asu_lora.models.adapter_stack import load

    stack = load(rambling)
    assert [note for note in stack.notes if "no chat template" in note]
    assert stack.ask([KNOWN[0]["question"]]) == [KNOWN[0]["answer"]]


def test_every_end_that_the_checkpoint_names_ends_an_answer(taught_base):
    """Llama 3 has three; a number that is an ordinary letter in this tokenizer is none."""
    base = load_base(str(taught_base), "fp32", "cpu")
    tokenizer, letter = base.tokenizer, base.tokenizer.convert_tokens_to_ids("a")
    before = base.model.generation_config.eos_token_id
    try:
        base.model.generation_config.eos_token_id = [tokenizer.pad_token_id, letter]
        assert stop_tokens(base.model, tokenizer) == sorted({tokenizer.eos_token_id, tokenizer.pad_token_id})
    finally:
        base.model.generation_config.eos_token_id = before


@pytest.mark.parametrize("batch_rows", [None, 1])
def test_answers_go_up_to_the_last_position_and_not_beyond(batch_rows):
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=320, n_positions=64, n_embd=32, n_layer=2, n_head=2)).eval()
    with torch.no_grad():
        model.lm_head.weight[256:] = 0  # no special token: every answer goes on to the end
    prompts = [[40] * 60, [50] * 10, [60] * 30]
    endings = Endings()
    told = generate_answers(model, tokenizer, prompts, 200, batch_rows, endings=endings)
    assert [len(answer) for answer in told] == [4, 54, 34] and endings.full == 3
    assert "were longer than an answer may be and were cut off" in endings.note("the model")
    with pytest.raises(DataError, match=r"takes 64 tokens, and the base has 64 positions"):
        generate_answers(model, tokenizer, [[40] * 64])


def test_a_question_longer_than_the_positions_is_one_sentence(tmp_path):
    from transformers import AutoConfig

    folder = save_tiny_base(tmp_path / "base")
    config = AutoConfig.from_pretrained(folder)
    config.max_position_embeddings = 64
    encoder = encoder_for(tiny_tokenizer(), config, RowFormat())
    with pytest.raises(DataError, match="prompt of the question takes .* 64 positions, .* shorten it"):
        encoder.prompt_ids(question_answer("Who? " * 20, "-").prompt)
    [item] = encoder.encode(question_answer("Who?", "Anna. " * 40))
    assert len(item) == 64 and item.cut
    [note] = [note for note in encoder.notes() if "positions" in note]
    assert "64 positions" in note and "--max-length is 512" in note
