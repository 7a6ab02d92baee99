"""Scores by likelihood against independent computations, on a base whose tokenizer adds no BOS."""

import math

import pytest
import torch

import asu_lora
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.evaluation.answer_scores import add_model_scores
from asu_lora.evaluation.evaluate import evaluate
from asu_lora.evaluation.likelihoods import Likelihoods
from asu_lora.evaluation.question_sets import PARAPHRASED_FORGET, QuestionSet, with_paraphrases
from asu_lora.models.loading import load_base
from tests.support import independent_metrics as independent
from tests.support.tiny_run import FACTS, rows

PASSAGE = " ".join(f"{name} {does}, as everybody knows." for name, does in FACTS)


@pytest.fixture(scope="module")
def stack(taught_base):
    return asu_lora.load(load_base(str(taught_base), "fp32", "cpu"))


@pytest.fixture(scope="module")
def likelihoods(stack):
    return Likelihoods(stack, stack.encoder())


def examples(*more):
    return examples_from_rows([row | (more[0] if more else {}) for row in rows(FACTS[:4])], "facts")


def test_this_tokenizer_adds_nothing_before_a_text(stack):
    assert stack.base.tokenizer("a").input_ids == stack.base.tokenizer("a", add_special_tokens=False).input_ids


def test_answers_are_scored_as_the_papers_say(stack, likelihoods):
    """The end of turn counts in loss and probability; in memorization and Min-K the words alone do."""
    model, asked = (
        stack.base.model,
        [*examples(), *examples_from_rows([{"question": "Who?", "answer": "Zoe Zed, 9."}], "x")],
    )
    for example, values in zip(asked, likelihoods.values(asked), strict=True):
        ids, start = independent.rows_of(stack.base.tokenizer, example.question, example.answer)
        loss, words = independent.nll(model, ids, start), ids[:-1]
        assert ids[-1] == stack.base.tokenizer.convert_tokens_to_ids("<|im_end|>")
        exact, strength = independent.memorization(model, words, start)
        expected = {
            "loss": loss,
            "probability": math.exp(-loss),
            "answer_probability": math.exp(-loss),
            "zlib_loss": independent.zlib_loss(loss, example.answer),
            "exact_memorization": exact,
            "extraction_strength": strength,
            "min_k": independent.min_k(model, words, start),
            "min_k_plus_plus": independent.min_k_plus_plus(model, words, start),
        }
        for metric, value in expected.items():
            assert values[metric] == pytest.approx(value, rel=1e-3, abs=1e-6), metric


def test_a_model_that_never_ends_its_answers_can_have_extraction_strength(stack):
    """The field's 0.36 where counting the end of turn gives 0: the words come, the end doesn't."""
    scored = Likelihoods(stack, stack.encoder())
    end = stack.base.tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain = scored.head.logits

    def without_end(hidden):
        logits = plain(hidden)
        logits[:, end] = -1e4
        return logits

    scored.head.logits = without_end
    for values in scored.values(examples()):
        assert values["exact_memorization"] == values["extraction_strength"] == 1.0
        assert values["probability"] < 1e-6


def test_every_window_of_a_passage_counts(stack):
    """A passage of several windows: each token once, the first windows too."""
    encoder = Encoder(stack.base.tokenizer, max_length=64)
    passage = Example((), PASSAGE, {}, 1)
    windows = encoder.encode(passage)
    assert len(windows) > 3
    (values,) = Likelihoods(stack, encoder).values([passage])
    tables, labels = [], []
    for window in windows:
        table, tokens = independent.token_logprobs(stack.base.model, [*window.prompt_ids, *window.answer_ids], 1)
        tables.append(table)
        labels.append(tokens)
    table, tokens = torch.cat(tables), torch.cat(labels)
    assert len(tokens) == len(stack.base.tokenizer(PASSAGE).input_ids) - 1
    own = [table[i, t].item() for i, t in enumerate(tokens)]
    assert values["loss"] == pytest.approx(-sum(own) / len(own), rel=1e-3)
    assert values["min_k"] == pytest.approx(independent.least_likely(own), rel=1e-3)
    assert values["exact_memorization"] == pytest.approx((table.argmax(-1) == tokens).double().mean().item())


def test_truth_ratio_is_of_the_paraphrase(stack, likelihoods):
    """TOFU: the truth in other words against the wrong answers; of several paraphrases the mean of their losses."""
    model, tokenizer = stack.base.model, stack.base.tokenizer
    wrong = ["Nobody sleeps.", "Someone eats soap."]

    def loss(example, text):
        return independent.nll(model, *independent.rows_of(tokenizer, example.question, text))

    for paraphrases in ("Other words say it.", ["Other words say it.", "Quite other words."]):
        asked = examples({"paraphrased_answer": paraphrases, "perturbed_answer": wrong})
        texts = [paraphrases] if isinstance(paraphrases, str) else paraphrases
        for example, values in zip(asked, likelihoods.values(asked), strict=True):
            true = sum(loss(example, text) for text in texts) / len(texts)
            ratio = math.exp(sum(loss(example, text) for text in wrong) / len(wrong) - true)
            assert values["truth_ratio"] == pytest.approx(ratio, rel=1e-3)
            p_true, p_false = math.exp(-true), math.exp(-sum(loss(example, text) for text in wrong) / len(wrong))
            assert values["truth_share"] == pytest.approx(p_true / (p_true + p_false), rel=1e-3)


def test_without_a_paraphrase_the_answer_itself_is_the_truth(stack, likelihoods):
    asked = examples({"perturbed_answer": ["Nobody sleeps."]})
    for example, values in zip(asked, likelihoods.values(asked), strict=True):
        own, wrong = (
            independent.nll(stack.base.model, *independent.rows_of(stack.base.tokenizer, example.question, text))
            for text in (example.answer, "Nobody sleeps.")
        )
        assert values["truth_ratio"] == pytest.approx(math.exp(wrong - own), rel=1e-3)
        among = likelihoods.values([example], multiple_choice=True)[0]["probability"]
        assert among == pytest.approx(math.exp(-own) / (math.exp(-own) + math.exp(-wrong)), rel=1e-3)


def test_the_full_sentence_is_compared_where_a_row_has_one():
    """``original_answer`` is what the sentence encoder and the NLI model see."""
    seen = []

    class Encoder:
        def embed(self, texts, batch_size):
            seen.append(list(texts))
            return torch.eye(len(texts))

    class NLI:
        def entails(self, pairs):
            seen.append(list(pairs))
            return [True] * len(pairs)

    full, bare = examples({"original_answer": "In full: she keeps bees."})[0], examples()[1]
    records = [{"answer": "She keeps bees.", "rouge": 1.0}, {"answer": "He builds boats.", "rouge": 1.0}]
    add_model_scores(records, [full, bare], False, Encoder(), NLI())
    assert seen[0] == ["She keeps bees.", "He builds boats.", "In full: she keeps bees.", bare.answer]
    assert seen[1] == [("In full: she keeps bees.", "She keeps bees."), (bare.answer, "He builds boats.")]
    assert [record["entailment"] for record in records] == [1.0, 1.0]


def test_passages_are_scored_by_likelihood_and_said_to_be(stack):
    mixed = [*examples()[:2], Example((), PASSAGE, {}, 3)]
    result = evaluate(stack, [QuestionSet("forget", tuple(mixed))])
    question, passage = result.records[0], result.records[-1]
    assert "answer" in question and "answer" not in passage and passage["truth"] == PASSAGE
    assert result.summary()["questions"]["forget"] == 3
    means = result.sets["forget"]
    assert means["probability"] == pytest.approx(sum(r["probability"] for r in result.records) / 3)
    assert means["rouge"] == pytest.approx(sum(r["rouge"] for r in result.records[:2]) / 2)
    assert any("1 of the 3 rows of the forget set are passages" in note for note in result.notes)
    ids = stack.base.tokenizer(PASSAGE).input_ids
    assert passage["loss"] == pytest.approx(independent.nll(stack.base.model, ids, 1), rel=1e-3)


def test_a_question_in_other_words_is_a_set_of_its_own(stack):
    asked = examples({"paraphrased_question": "In other words, what?"})
    sets = with_paraphrases([QuestionSet("forget", tuple(asked)), QuestionSet("retain", tuple(asked))])
    assert [questions.name for questions in sets] == ["forget", "retain", PARAPHRASED_FORGET]
    result = evaluate(stack, sets)
    for record in result.records:
        if record["set"] == PARAPHRASED_FORGET:
            assert record["question"] == "In other words, what?"
            ids, start = independent.rows_of(stack.base.tokenizer, record["question"], record["truth"])
            assert record["loss"] == pytest.approx(independent.nll(stack.base.model, ids, start), rel=1e-3)
    assert result.sets[PARAPHRASED_FORGET]["probability"] < result.sets["forget"]["probability"]
    assert with_paraphrases([QuestionSet("forget", tuple(examples()))]) == [QuestionSet("forget", tuple(examples()))]
