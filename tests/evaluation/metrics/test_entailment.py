"""Entailment on tiny NLI models that the test builds and saves, against transformers' own pipeline."""

import huggingface_hub.constants
import pytest
from transformers import BertForMaskedLM, BertForSequenceClassification, pipeline

from asu_lora.errors import DataError
from asu_lora.evaluation.metrics.entailment import EntailmentModel, entailment
from asu_lora.evaluation.pretrained import ScoreUnavailable
from tests.support.tiny_bert import SENTENCES, save

NLI_LABELS = {0: "contradiction", 1: "ENTAILMENT", 2: "neutral"}


@pytest.fixture(scope="module")
def nli_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("nli"), BertForSequenceClassification, id2label=NLI_LABELS)


def test_entailment_agrees_with_the_pipeline(nli_folder):
    nli = EntailmentModel(nli_folder)
    assert nli.entailment_id == 1
    # An empty hypothesis is no pair at all to the pipeline; the ROUGE floor keeps such answers out.
    pairs = [(premise, hypothesis) for premise in SENTENCES for hypothesis in SENTENCES if hypothesis]
    classify = pipeline("text-classification", model=nli_folder, tokenizer=nli_folder, device="cpu")
    expected = [
        classify({"text": premise, "text_pair": hypothesis})["label"] == "ENTAILMENT" for premise, hypothesis in pairs
    ]
    assert 0 < sum(expected) < len(pairs)
    for batch_size in (1, 4, 64):
        assert nli.entails(pairs, batch_size) == expected
    assert nli.entails([]) == []


def test_entailment_directions_and_the_rouge_floor(nli_folder):
    nli = EntailmentModel(nli_folder)
    directed = next((a, t) for a in SENTENCES for t in SENTENCES if nli.entails([(a, t)]) != nli.entails([(t, a)]))
    answer, truth = directed if nli.entails([directed])[0] else directed[::-1]
    assert entailment(nli, [answer], [truth], [1.0], forget=True) == [True]  # premise: the answer
    assert entailment(nli, [answer], [truth], [1.0], forget=False) == [False]
    assert entailment(nli, [truth], [answer], [1.0], forget=False) == [True]  # premise: the truth
    rouge = [0.0999, 0.1, 0.0, 1.0]
    assert entailment(nli, [answer] * 4, [truth] * 4, rouge, forget=True) == [False, True, False, True]
    assert entailment(nli, [answer], [truth], [0.0], forget=True) == [False]
    with pytest.raises(DataError, match="2 ROUGE values"):
        entailment(nli, [answer], [truth], [1.0, 1.0], forget=True)


def test_nli_takes_pairs_longer_than_its_positions(nli_folder):
    assert len(EntailmentModel(nli_folder).entails([("he is male . " * 20, "paris " * 40)])) == 1


@pytest.mark.parametrize("labels", [
    {0: "LABEL_0", 1: "LABEL_1"}, {0: "positive", 1: "negative"}, {0: "not_entailment", 1: "other"},
])  # fmt: skip
def test_a_classifier_without_entailment_is_refused(tmp_path, labels):
    folder = save(tmp_path, BertForSequenceClassification, id2label=labels)
    with pytest.raises(ScoreUnavailable, match=rf"{labels[0]}, {labels[1]}.*--nli"):
        EntailmentModel(folder)


def test_two_labels_are_enough(tmp_path):
    labels = {0: "entailment", 1: "not_entailment"}
    assert EntailmentModel(save(tmp_path, BertForSequenceClassification, id2label=labels)).entailment_id == 0


def test_a_model_without_a_classifier_is_refused(tmp_path):
    # transformers would load it and fill the missing head with random numbers.
    folder = save(tmp_path, BertForMaskedLM, id2label=NLI_LABELS)
    with pytest.raises(ScoreUnavailable, match="has no weights for"):
        EntailmentModel(folder)


def test_without_a_hub_it_says_so_at_once(monkeypatch):
    # An address where nobody listens: every request is refused for real.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ScoreUnavailable, match=r"No entailment: .*no-such-nli.*hub can't be reached.*--nli"):
        EntailmentModel("asu-lora/no-such-nli")
