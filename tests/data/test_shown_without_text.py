"""Logs and collectors of errors show objects by their ``repr``: no word of a request and no key may stand there."""

import json

import pytest

from asu_lora.audit.facts import Fact
from asu_lora.data.encoding import Encoder
from asu_lora.data.request import ForgetRequest
from asu_lora.requests.key import Key
from asu_lora.requests.text_vault import RequestText, TextVault
from asu_lora.retain.same_facts import Content

SAID = ("Quillfeather", "Obsidian", "Wexcombe")
ROW = {"question": "Where does Zarah Quillfeather live?", "answer": "In Obsidian Lane 7.", "place": "Wexcombe"}


def shown(tmp_path, tokenizer):
    """What a run has in its hands, by name."""
    file = tmp_path / "request.jsonl"
    file.write_text(json.dumps(ROW))
    request = ForgetRequest.from_rows([ROW], [{"text": "Wexcombe lies by the Obsidian river."}])
    return {
        "request": request,
        "row": request.forget[0],
        "text": RequestText.from_files(file),
        "content": Content.of(request.forget[0]),
        "fact": Fact((("Obsidian", "Lane"),)),
        "tokens": Encoder(tokenizer).encode_all(request.forget),
    }


def test_no_word_of_a_row_is_shown(tmp_path, tokenizer):
    for name, value in shown(tmp_path, tokenizer).items():
        told = repr(value).lower()
        assert not [word for word in SAID if word.lower() in told], name


def test_no_token_of_a_row_is_shown(tmp_path, tokenizer):
    (row,) = shown(tmp_path, tokenizer)["tokens"]
    assert str(list(row.answer_ids))[1:-1] not in repr(row)


@pytest.mark.parametrize("secret", [bytes(range(32)), b"K" * 32])
def test_no_key_is_shown(secret):
    key, seal = Key(secret, "a file"), TextVault(secret).seal
    assert repr(secret)[2:-1] not in repr(key) and "a file" in repr(key)
    assert repr(seal.key)[2:-1] not in repr(seal) and seal.key_id in repr(seal)
