"""After ``--forget-text`` no word of a request stands anywhere: store, ledger, certificates, the address."""

import json

import pytest

from asu_lora.audit.parts import Parts
from asu_lora.requests.intake import Files, hand_in_again
from asu_lora.requests.key import find_key
from asu_lora.requests.ledger.states import TEXT_DESTROYED
from asu_lora.requests.runner.audit_policy import AuditPolicy, Certifying
from asu_lora.requests.text_vault import TextVault
from tests.support.request_queue import asked_directly
from tests.support.tiny_run import FACTS, rows


def test_after_a_refusal_another_text_and_an_audit_that_was_cut_off(queue, tmp_path, monkeypatch):
    queue.add("weak")
    address, policy = f"file://{tmp_path / 'published'}", AuditPolicy(fail_over=0.5, certify=Certifying())
    assert queue.run(asked_directly(over=bool), policy=policy, results=address).refused

    file = tmp_path / "again.jsonl"
    file.write_text("\n".join(map(json.dumps, rows(FACTS[4:5]))))
    hand_in_again(queue.ledger, TextVault(find_key().secret), "weak", Files(str(file)))
    file.unlink()

    def cut_off(self, attack, found, write=Parts.write):
        write(self, attack, found)
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(Parts, "write", cut_off)
        queue.run(asked_directly(depth="standard"), policy=policy, results=address)

    queue.run(asked_directly(), policy=policy, results=address, forget_text=True)
    assert queue.ledger.get("weak").text == TEXT_DESTROYED and queue.ledger.verify().whole
    assert queue.events("weak").count("trained") == 2, "the other text is trained anew"
    words = {word.encode() for fact in (FACTS[0], FACTS[4], *FACTS[-2:]) for word in fact}
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in words if word in content], path
