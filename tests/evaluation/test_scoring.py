"""Scores and what is said beside them: records field by field, progress, notes."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import asu_lora
import asu_lora.evaluation.answer_scores as answer_scores
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.evaluation.answer_scores import add_model_scores, answer_records, full_answer
from asu_lora.evaluation.evaluate import evaluate, passages_note
from asu_lora.evaluation.likelihoods import BLOCK, Likelihoods
from asu_lora.evaluation.metrics.rouge import rouge_l_recall
from asu_lora.evaluation.metrics.token_entropy import token_entropy
from asu_lora.evaluation.question_sets import QuestionSet
from asu_lora.models.answer_ends import Endings
from asu_lora.models.loading import load_base
from asu_lora.progress import Progress
from tests.support import independent_metrics as independent

PASSAGE = Example((), "Ada keeps bees. Bob builds boats.", {}, 3)


class Heard(Progress):
    """Stages with their totals, and what was advanced in each."""

    def __init__(self):
        self.stages, self.done, self.closed = [], [], 0

    def stage(self, name, total=None):
        self.stages.append((name, total))
        self.done.append(0)

    def advance(self, amount=1, **values):
        self.done[-1] += amount

    def close(self):
        self.closed += 1


@pytest.fixture(scope="module")
def stack(tiny_base):
    return asu_lora.load(load_base(str(tiny_base), "fp32", "cpu"))


def asked(count=2, **extra):
    return examples_from_rows(
        [{"question": f"Who is number {i}?", "answer": f"It is Ada {i}.", **extra} for i in range(count)], "rows"
    )


# ---- answers


def test_a_record_holds_the_models_own_answer(stack):
    heard, questions = Heard(), QuestionSet("mine", (*asked(), PASSAGE))
    records, endings = answer_records(stack, stack.encoder(), questions, heard)
    assert heard.stages == [("Answers on the mine set", 2)] and heard.done == [2]
    assert endings.answers == 2
    said = stack.ask([example.question for example in asked()])
    for record, example, answer in zip(records, asked(), said, strict=False):
        assert list(record) == [
            "set", "row", "question", "truth", "answer", "rouge", "token_entropy", "gibberish",
        ]  # fmt: skip
        assert (record["set"], record["row"]) == ("mine", example.row)
        assert (record["question"], record["truth"], record["answer"]) == (example.question, example.answer, answer)
        assert record["rouge"] == rouge_l_recall(answer, example.answer)
    assert records[2] == {"set": "mine", "row": 3, "question": PASSAGE.question, "truth": PASSAGE.answer}


def test_an_answer_is_read_without_special_tokens_and_edges(stack, monkeypatch):
    """The rest of the record is made of these tokens and of this text."""
    tokens = stack.base.tokenizer("  Ada 0 was it.\n<|im_end|>").input_ids
    heard, given = Heard(), {}

    def written(model, tokenizer, prompts, **named):
        given.update(named, model=model, tokenizer=tokenizer, prompts=prompts)
        named["progress"](len(prompts))
        return [tokens for _ in prompts]

    monkeypatch.setattr(answer_scores, "generate_answers", written)
    records, endings = answer_records(stack, stack.encoder(), QuestionSet("mine", tuple(asked(1))), heard)
    assert records[0]["answer"] == "Ada 0 was it."
    assert records[0]["rouge"] == rouge_l_recall("Ada 0 was it.", "It is Ada 0.") == 0.5
    assert records[0]["token_entropy"] == token_entropy(tokens) and records[0]["gibberish"] == 0.0
    assert isinstance(records[0]["gibberish"], float)
    assert given["model"] is stack.model and given["tokenizer"] is stack.base.tokenizer and heard.done == [1]
    assert given["prompts"] == [stack.encoder().prompt_ids(asked(1)[0].prompt)] and given["endings"] is endings
    assert given["least"] == 100  # room for a true answer, however long the question


class Models:
    """An encoder by which the first letters decide, and an NLI model that keeps what it was asked."""

    def __init__(self):
        self.pairs, self.texts = [], []

    def embed(self, texts, batch_size):
        self.texts += texts
        return torch.stack([torch.tensor([1.0, 0.0] if text[:1] == "S" else [0.6, 0.8]) for text in texts])

    def entails(self, pairs):
        self.pairs += pairs
        return [pair[0][:1] == "S" for pair in pairs]


@pytest.mark.parametrize("forget", [True, False])
def test_models_compare_the_answers_of_questions_with_the_full_truth(forget):
    full, bare = asked(1, original_answer="In full: Ada.")[0], asked(2)[1]
    records = [{"answer": "She is.", "rouge": 1.0}, {"truth": "a passage"}, {"answer": "Bob.", "rouge": 0.0}]
    models = Models()
    add_model_scores(records, [full, PASSAGE, bare], forget, models, models)
    assert full_answer(full) == "In full: Ada." and full_answer(bare) == "It is Ada 1."
    assert models.texts == ["She is.", "Bob.", "In full: Ada.", "It is Ada 1."]
    # of the second answer ROUGE says enough: it is not shown
    assert models.pairs == [("She is.", "In full: Ada.") if forget else ("In full: Ada.", "She is.")]
    assert records[0]["cosine_similarity"] == pytest.approx(0.6) and records[2]["cosine_similarity"] == 1.0
    assert [records[at]["entailment"] for at in (0, 2)] == [1.0 if forget else 0.0, 0.0]
    assert all(isinstance(records[at]["entailment"], float) for at in (0, 2))
    assert records[1] == {"truth": "a passage"}


def test_scores_without_their_models_are_missing():
    for encoder, nli in ((None, None), (Models(), None), (None, Models())):
        records = [{"answer": "She is.", "rouge": 1.0}]
        add_model_scores(records, asked(1), False, encoder, nli)
        assert (records[0]["cosine_similarity"] is None) == (encoder is None)
        assert (records[0]["entailment"] is None) == (nli is None)
    silent = Models()
    silent.embed = silent.entails = None  # with nothing to compare they aren't called
    add_model_scores([{"truth": "a passage"}], [PASSAGE], False, silent, silent)
    with pytest.raises(ValueError, match="longer"):
        add_model_scores([{"answer": "a", "rouge": 1.0}], asked(2), False, None, None)


# ---- the whole


def test_an_evaluation_tells_its_stages_and_keeps_every_set(stack):
    many = QuestionSet("retain", tuple(asked(BLOCK + 2, perturbed_answer=["It is Bob."])), multiple_choice=True)
    heard = Heard()
    result = evaluate(stack, [QuestionSet("forget", (*asked(), PASSAGE)), many], Models(), Models(), ["said"], heard)
    assert heard.stages == [
        ("Answers on the forget set", 2),
        ("Likelihoods on the forget set", 3),
        ("Answers on the retain set", BLOCK + 2),
        ("Likelihoods on the retain set", BLOCK + 2),
    ]
    assert heard.done == [total for _, total in heard.stages] and heard.closed == 1
    assert [record["set"] for record in result.records] == ["forget"] * 3 + ["retain"] * (BLOCK + 2)
    assert list(result.sets) == ["forget", "retain"] and result.notes[0] == "said"
    assert any("1 of the 3 rows of the forget set are passages" in note for note in result.notes)
    likelihoods = Likelihoods(stack, stack.encoder())
    for record, example in ((result.records[3], many.examples[0]), (result.records[-1], many.examples[-1])):
        (expected,) = likelihoods.values([example], multiple_choice=True)
        found = {name: record[name] for name in expected}
        assert found == pytest.approx(expected, rel=1e-4)
        assert record["probability"] != pytest.approx(record["answer_probability"], rel=1e-2)
        assert record["cosine_similarity"] is not None and record["entailment"] is not None
    for record in result.records[:2]:
        assert record["probability"] == record["answer_probability"] and record["truth_ratio"] is None
    assert "truth_ratio" not in result.records[2]


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_on_the_forget_set_alone_entailment_runs_from_answer_to_truth(stack, monkeypatch, name):
    tokens = stack.base.tokenizer("It is Ada 0 indeed.").input_ids
    monkeypatch.setattr(answer_scores, "generate_answers", lambda model, tokenizer, prompts, **named: [tokens])
    models, pair = Models(), ("It is Ada 0 indeed.", "It is Ada 0.")
    (record,) = evaluate(stack, [QuestionSet(name, tuple(asked(1)))], None, models).records
    assert models.pairs == [pair if name == "forget" else pair[::-1]]
    assert record["entailment"] == 0.0 and record["cosine_similarity"] is None


def test_what_was_cut_off_or_never_ended_is_said(stack, monkeypatch):
    short = SimpleNamespace(**vars(stack), ask=stack.ask, check=stack.check)
    short.encoder = lambda: Encoder(stack.base.tokenizer, max_length=60)
    long = examples_from_rows(
        [
            {
                "question": "Who?",
                "answer": "It is Ada, and her sister, and all the others too.",
                "paraphrased_answer": "Ada.",
                "perturbed_answer": ["It is Bob, and his brother, and all the others too.", "Bob."],
            }
        ],
        "x",
    )
    real = answer_scores.generate_answers

    def unended(*given, **named):
        found = real(*given, **named)
        named["endings"] += Endings()
        named["endings"].full = 1
        return found

    monkeypatch.setattr(answer_scores, "generate_answers", unended)
    result = evaluate(short, [QuestionSet("forget", (*long, PASSAGE))], notes=("first",))
    assert result.notes[0] == "first" and len(result.notes) == 5
    assert result.notes[1].startswith("1 of 1 forget answers are longer than --max-length 60")
    cut = "1 of 1 answers of the model, on the forget set, were longer than an answer may be and were cut off; what stands"
    others = "1 of 3 paraphrased and perturbed forget answers are longer than --max-length 60 and were cut off"
    assert result.notes[2].startswith(others)
    assert result.notes[3].startswith(cut)
    assert "passages" in result.notes[4]


def test_passages_are_counted_in_one_sentence():
    assert passages_note(QuestionSet("mine", tuple(asked(2)))) is None
    assert passages_note(QuestionSet("mine", (*asked(1), PASSAGE, PASSAGE))) == (
        "2 of the 3 rows of the mine set are passages: they ask nothing, so likelihoods alone score them "
        "(probability, memorization, membership)."
    )


# ---- likelihoods


def test_membership_is_that_of_each_text(stack):
    likelihoods, model = Likelihoods(stack, stack.encoder()), stack.base.model
    texts = [*asked(), PASSAGE]
    for example, values in zip(texts, likelihoods.membership(texts), strict=True):
        assert values == pytest.approx({name: likelihoods.values([example])[0][name] for name in values}, rel=1e-4)
        assert list(values) == ["loss", "zlib_loss", "min_k", "min_k_plus_plus"]
    ids, start = independent.rows_of(stack.base.tokenizer, texts[0].question, texts[0].answer)
    assert likelihoods.membership(texts[:1])[0]["loss"] == pytest.approx(independent.nll(model, ids, start), rel=1e-3)


def test_tokens_are_scored_a_chunk_at_a_time_all_the_same(stack):
    likelihoods = Likelihoods(stack, stack.encoder())
    items = likelihoods.encoder.encode_all([*asked(), PASSAGE])
    whole = likelihoods.tokens(items)
    likelihoods.head.chunk = lambda: 3
    for one, other, item in zip(whole, likelihoods.tokens(items), items, strict=True):
        assert one.labels.tolist() == other.labels.tolist() == list(item.answer_ids)
        assert one.end == other.end == item.end == (0 if item is items[-1] else 1)
        assert not one.logprobs.requires_grad
        for name in ("logprobs", "predicted", "standardized"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-2, atol=1e-2)


def test_wrong_answers_belong_to_their_own_question(stack):
    """Rows with none, one and two wrong answers beside one another, with and without paraphrases."""
    likelihoods, model, tokenizer = Likelihoods(stack, stack.encoder()), stack.base.model, stack.base.tokenizer
    extras = [
        {"perturbed_answer": ["It is Bob.", "It is Cyd, I think."], "paraphrased_answer": "Ada it is."},
        {},
        {"paraphrased_answer": "Ada it is."},
        {"perturbed_answer": "It is Dan."},
    ]
    examples = [replace(example, extra=extra) for example, extra in zip(asked(4), extras, strict=True)]

    def loss(example, text):
        return independent.nll(model, *independent.rows_of(tokenizer, example.question, text))

    found = likelihoods.values([examples[0], PASSAGE, *examples[1:]], multiple_choice=True)
    del found[1]
    for at in (1, 2):
        assert found[at]["truth_ratio"] is found[at]["truth_share"] is found[at]["probability"] is None
        assert found[at]["answer_probability"] == pytest.approx(
            math.exp(-loss(examples[at], examples[at].answer)), rel=1e-3
        )
    for at, true, wrong in (
        (0, "Ada it is.", ["It is Bob.", "It is Cyd, I think."]),
        (3, "It is Ada 3.", ["It is Dan."]),
    ):
        own, false = loss(examples[at], examples[at].answer), [loss(examples[at], text) for text in wrong]
        ratio = math.exp(sum(false) / len(false) - loss(examples[at], true))
        assert found[at]["truth_ratio"] == pytest.approx(ratio, rel=1e-3)
        options = [math.exp(-each) for each in (own, *false)]
        assert found[at]["probability"] == pytest.approx(options[0] / sum(options), rel=1e-3)
        assert "among_wrong" not in found[at]
