"""A run on a user's own wordings: it trains on them, is another run than one without, and leaves no word of them."""

import json

import pytest

from asu_lora.adapters.store import AdapterStore
from asu_lora.data.examples import question_answer
from asu_lora.errors import TrainingError
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.prepare import prepare
from asu_lora.forgetting.run import open_run
from tests.support.adapter_weights import same, weights
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_request, tiny_settings

WAYS = ("Quillfeather, what is Anna's trade?", "How does Anna earn a living?")


@pytest.fixture
def file(tmp_path):
    found = [{"question": rows(FACTS[:1])[0]["question"], "paraphrased_question": WAYS}]
    found.append({"question": "Who is Bo?", "paraphrased_question": "Bo?"})
    (tmp_path / "ways.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return tmp_path / "ways.jsonl"


@pytest.mark.parametrize(("asked", "trained_on"), [(0, 2), (1, 1), (3, 3)])
def test_training_goes_through_the_file_s_wordings(base, tmp_path, file, asked, trained_on, snapshot):
    request, heard = tiny_request().with_paraphrases(file), Listener()
    with open_run(request, base, tiny_settings(phrasings=asked), store=tmp_path / "store", progress=heard) as run:
        found = prepare(run)["forget"].rows
        asked_of_anna = [base.tokenizer.decode(found.answers[at].prompt_ids) for at in found.in_other_words[0]]
    assert run.config.phrasings == trained_on == len(asked_of_anna)
    for text, way in zip(asked_of_anna, WAYS[:trained_on], strict=False):
        assert way in text
    assert any("asks 1 question of --paraphrases" in note for note in heard.notes)


def test_a_held_out_question_that_is_trained_on_is_said(base, tmp_path, file, snapshot):
    heard, held = Listener(), [question_answer(way, "Anna Birk keeps bees.") for way in ("Anna?", WAYS[1])]
    with open_run(
        tiny_request().with_paraphrases(file), base, tiny_settings(), store=tmp_path / "s", progress=heard
    ) as run:
        run.questions(held[:1])
        assert not heard.notes
        run.questions(held)
    assert heard.notes[0].startswith("1 of 2 held-out questions stand in --paraphrases too")


def test_the_adapter_s_folder_has_their_number_and_no_word_of_them(base, tmp_path, file, snapshot):
    store = AdapterStore(tmp_path / "store")
    forget(tiny_request().with_paraphrases(file), base, tiny_settings(), name="with", store=store)
    forget(tiny_request(), base, tiny_settings(), name="without", store=store)
    assert not same(weights(store.root, "with"), weights(store.root, "without"))
    manifest, without = store.get("with").manifest, store.get("without").manifest
    assert manifest.request.counts == {"paraphrases": 2} and manifest.training["phrasings"] == 2
    assert without.request.counts == {} and manifest.request.fingerprint == without.request.fingerprint
    for path in (store.root / "with").rglob("*"):
        assert b"uillfeather" not in path.read_bytes() and b"ways.jsonl" not in path.read_bytes(), path


def test_an_interrupted_run_goes_on_with_the_same_wordings_alone(base, tmp_path, file, snapshot):
    store, request = tmp_path / "store", tiny_request().with_paraphrases(file)
    forget(request, base, tiny_settings(), name="whole", store=store)
    with pytest.raises(KeyboardInterrupt):
        forget(request, base, tiny_settings(), name="broken", store=store, progress=Listener(stop_at=5))
    kept = (store / ".runs" / "broken" / "run.json").read_text()
    assert json.loads(kept)["paraphrases"].startswith("hmac-sha256:") and "uillfeather" not in kept
    file.write_text(file.read_text().replace("earn a living", "spend the day"))
    with pytest.raises(TrainingError, match="other settings, base or request"):
        forget(tiny_request().with_paraphrases(file), base, tiny_settings(), name="broken", store=store, resume=True)
    forget(request, base, tiny_settings(), name="broken", store=store, resume=True)
    assert same(weights(store, "whole"), weights(store, "broken"))
