"""Greedy answers in batches against one question at a time, by a bare loop over the model."""

import pytest
import torch
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from asu_lora.data.chat_template import stop_ids
from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import question_answer
from asu_lora.data.sampling import sample
from asu_lora.evaluation.set_scores import score_set
from asu_lora.models.generation import batches, enough_tokens, generate_answers, key_value_bytes
from asu_lora.models.output_head import FrozenHead
from tests.support.tiny_base import tiny_tokenizer
from tests.support.tiny_run import FACTS, encoded_facts, rows


@pytest.fixture(scope="module")
def prompts(taught_base):
    """Of very different lengths, in no order, some of them nonsense to the model."""
    facts = [list(item.prompt_ids) for item in encoded_facts(taught_base)]
    return [facts[0], facts[3] * 2, [40], facts[7], list(range(50, 90)), facts[1], facts[5][:9]]


def bare(model, tokenizer, prompt, tokens):
    """One prompt, token by token, without cache, padding or ``generate``."""
    ids, stops = list(prompt), stop_ids(tokenizer)
    for _ in range(tokens):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in stops:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_rows", [1, 2, 40])
@pytest.mark.parametrize("total", [40, 80])
def test_batches_answer_as_each_prompt_alone(base, prompts, batch_rows, total):
    """Order kept, ended at the end of the turn, and each answer as long as its own prompt leaves room for."""
    expected = [bare(base.model, base.tokenizer, prompt, max(16, total - len(prompt))) for prompt in prompts]
    assert generate_answers(base.model, base.tokenizer, prompts, total, batch_rows) == expected
    assert any(len(answer) == max(16, total - len(p)) for answer, p in zip(expected, prompts, strict=True))


def test_a_long_prompt_leaves_its_answer_the_room_that_the_true_one_takes(base):
    """With 16 tokens, ROUGE-L of an answer that is known by heart would look forgotten."""
    prompts = [[40 + at % 50 for at in range(length)] for length in (300, 60)]
    items = [Encoded(tuple(prompt), tuple(range(50, 90))) for prompt in prompts]
    total, least = enough_tokens(items, prompts)
    assert (total, least) == (200, 68)
    answers = generate_answers(base.model, base.tokenizer, prompts, total, least=least)
    assert answers == [bare(base.model, base.tokenizer, p, r) for p, r in zip(prompts, (68, 140), strict=True)]
    assert enough_tokens([Encoded((40,) * 20, (50,) * 10)], [[40] * 20]) == (43, 23)


def test_a_model_of_absolute_positions_sees_through_the_padding():
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=320, n_positions=128, n_embd=32, n_layer=2, n_head=2, eos_token_id=tokenizer.eos_token_id)
    ).eval()
    prompts = [[40] * 3, list(range(60, 90)), [70, 71]]
    assert generate_answers(model, tokenizer, prompts, 60) == [
        bare(model, tokenizer, prompt, 60 - len(prompt)) for prompt in prompts
    ]


def test_answers_are_the_facts_without_the_end_of_turn(base, taught_base):
    prompts = [list(item.prompt_ids) for item in encoded_facts(taught_base)]
    answers = generate_answers(base.model, base.tokenizer, prompts)
    assert [base.tokenizer.decode(ids) for ids in answers] == [row["answer"] for row in rows()]
    assert not any(set(ids) & set(stop_ids(base.tokenizer)) for ids in answers)


@pytest.mark.parametrize(
    "changes",
    [
        {"do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.5},
        {"num_beams": 3},
        {"repetition_penalty": 9.0},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 30},
        {"max_length": 12},
    ],
)
def test_a_checkpoints_own_ways_of_generating_change_nothing(base, prompts, changes):
    expected = generate_answers(base.model, base.tokenizer, prompts, 40)
    before = base.model.generation_config.to_dict()
    try:
        for name, value in changes.items():
            setattr(base.model.generation_config, name, value)
        assert generate_answers(base.model, base.tokenizer, prompts, 40) == expected
    finally:
        for name in changes:
            setattr(base.model.generation_config, name, before[name])


def test_the_models_mode_is_as_before_also_after_an_error(base, prompts):
    base.model.train()
    try:
        generate_answers(base.model, base.tokenizer, prompts[:1], 20)
        assert base.model.training
        with pytest.raises(ZeroDivisionError):
            generate_answers(base.model, base.tokenizer, prompts[:1], 20, progress=lambda done: done / 0)
        assert base.model.training
    finally:
        base.model.eval()


def test_progress_counts_every_prompt_once(base, prompts):
    heard = []
    generate_answers(base.model, base.tokenizer, prompts, 20, 3, progress=heard.append)
    assert heard == [3, 3, 1]
    assert generate_answers(base.model, base.tokenizer, []) == []


def test_figures_of_a_base_that_knows_everything(base):
    examples = [question_answer(**row) for row in rows()]
    figures = score_set(base.model, FrozenHead(base.model), base.tokenizer, Encoder(base.tokenizer), examples)
    assert figures.answers == [row["answer"] for row in rows()] and figures.rouge == [1.0] * len(FACTS)
    with torch.no_grad():
        item = Encoder(base.tokenizer).encode_all(examples)[2]
        ids = torch.tensor([item.prompt_ids + item.answer_ids])
        logprob = base.model(input_ids=ids).logits[0].log_softmax(-1)[len(item.prompt_ids) - 1 : -1]
        expected = logprob.gather(1, torch.tensor(item.answer_ids)[:, None]).mean().exp().item()
    assert figures.probability[2] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("size", "most"), [(10, 3), (100, 40), (41, 40), (5, 5), (3, 40), (0, 4), (7, 0)])
def test_a_sample_is_the_same_every_time_and_from_every_part(size, most):
    examples = [question_answer(f"q{i}", "a") for i in range(size)]
    chosen = sample(examples, most)
    assert chosen == sample(list(examples), most) and len(chosen) == min(size, most)
    at = [examples.index(example) for example in chosen]
    assert at == sorted(set(at))
    if 0 < most < size:
        assert at[0] == 0 and max(b - a for a, b in zip(at, [*at[1:], size], strict=True)) <= -(-size // most)


@pytest.mark.parametrize(
    "shape, rows",
    [
        # Llama-2-7B: 2 * 32 layers * 4096 * 2 bytes * 200 tokens = 105 MB an answer; SmolLM2-135M: 4.6 MB
        (dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32), 7),
        (dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8), 28),
        (dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3), 80),
    ],
)
def test_a_large_model_answers_fewer_at_once(shape, rows):
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(intermediate_size=8, vocab_size=16, **shape)).to(torch.bfloat16)
    found = batches(model, [100] * 100, lambda tokens: 200 - tokens)
    assert [len(batch) for batch in found][:-1] == [rows] * (len(found) - 1)
    assert sorted(index for batch in found for index in batch) == list(range(100))
    assert len(batches(model, [10**7] * 3, lambda tokens: 1)) == 3  # one at a time, at the least
    assert [len(batch) for batch in batches(model, [5] * 6, lambda tokens: 9, batch_rows=4)] == [4, 2]


def test_a_long_prompt_does_not_shrink_the_batches_of_short_ones():
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=8, vocab_size=16
            )
        )
    found = batches(model.to(torch.bfloat16), [100, 1000, 100, 100], lambda tokens: 100)
    assert found == [[1], [0, 2, 3]]


@pytest.mark.parametrize(
    "kind, values, stored",
    [
        ("falcon", dict(multi_query=True, new_decoder_architecture=False), 8),
        ("llama", {}, 32),
        ("falcon", dict(new_decoder_architecture=True, num_kv_heads=2), 16),
        ("gpt2", {}, 32),
        ("gpt_bigcode", {}, 8),
        ("mamba", {}, 32),
        ("gemma4_text", dict(head_dim=8, num_key_value_heads=2), 32),
        ("qwen3", dict(head_dim=16), 64),
    ],
)
def test_keys_and_values_by_the_config(kind, values, stored):
    """Of 4 heads of 8 numbers in 2 layers, in fp32; one the config doesn't tell counts as heads of their own."""
    sizes = (
        dict(n_embd=32, n_layer=2, n_head=4)
        if kind.startswith("gpt")
        else dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
        | ({} if kind == "falcon" else {"num_key_value_heads": 4})
    )
    model, config = torch.nn.Linear(1, 1), AutoConfig.for_model(kind, vocab_size=16, **(sizes | values))
    if kind == "gemma4_text" and not hasattr(config, "per_layer_config"):
        pytest.skip("this version of transformers tells one width for all layers")
    model.config, model.dtype = config, torch.float32
    assert key_value_bytes(model) == 2 * 2 * stored * 4


def test_all_in_one_batch_or_two_by_two(base, prompts):
    two = generate_answers(base.model, base.tokenizer, prompts, 60, batch_rows=2)
    assert two == generate_answers(base.model, base.tokenizer, prompts, 60)
    assert generate_answers(base.model, base.tokenizer, [], 60) == []
