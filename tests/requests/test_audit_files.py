"""What the audits of a run will read is tried before anything is trained."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from asu_lora.audit.certificate.signing_key import KEY_NAME, make_signing_key
from asu_lora.cli import main
from asu_lora.errors import BaseModelError, CertificateError, DataError, SettingError
from asu_lora.requests.engines.ray import RequestWorker
from asu_lora.requests.runner.audit_policy import AuditPolicy, Certifying
from tests.support.request_queue import counting_audit
from tests.support.tiny_run import FACTS, rows


def refused(queue, policy, error, match):
    queue.add("one")
    with pytest.raises(error, match=match):
        queue.run(counting_audit([]), policy=policy)
    assert queue.states() == {"one": "queued"} and queue.ledger.get("one").attempts == 0
    assert not queue.store.names()


def test_a_floor_that_is_not_there(queue):
    refused(queue, AuditPolicy(floor="nowhere.jsonl"), DataError, "no file nowhere.jsonl")


def test_a_floor_that_is_broken(queue, tmp_path):
    (tmp_path / "floor.jsonl").write_text('{"question": "Who?"\n')
    refused(queue, AuditPolicy(floor=str(tmp_path / "floor.jsonl")), DataError, "floor.jsonl")


def test_a_floor_base_that_is_not_there(queue, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(queue, AuditPolicy(floor_base=str(tmp_path / "empty")), BaseModelError, "empty")


def test_a_signing_key_that_is_not_there(queue, tmp_path):
    policy = AuditPolicy(certify=Certifying(tmp_path / "no.pem"))
    refused(queue, policy, CertificateError, "can't be read")


def test_a_key_of_the_store_that_others_may_read(queue):
    make_signing_key(queue.store.root / KEY_NAME)
    (queue.store.root / KEY_NAME).chmod(0o644)
    refused(queue, AuditPolicy(certify=Certifying()), CertificateError, "Others may read")


def test_files_that_are_there_stop_no_run(queue, tmp_path, tiny_base):
    (tmp_path / "floor.jsonl").write_text("\n".join(map(json.dumps, rows(FACTS[3:4]))))
    queue.add("one")
    queue.run(counting_audit([]), policy=AuditPolicy(floor=str(tmp_path / "floor.jsonl"), floor_base=str(tiny_base)))
    assert queue.states() == {"one": "audited"}


@pytest.mark.parametrize("words", [{"issuer": "x" * 201}, {"issuer": "  "}, {"valid_days": 0}])
def test_terms_that_no_certificate_can_have(words):
    with pytest.raises(SettingError):
        Certifying(**words)


def test_a_worker_in_another_folder_finds_the_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "floor.jsonl").touch()
    policy = AuditPolicy(floor="floor.jsonl", floor_base="owner/name", certify=Certifying(Path("key.pem"))).absolute()
    assert policy.certify is not None and policy.certify.key_file == tmp_path / "key.pem"
    assert (policy.floor, policy.floor_base) == (str(tmp_path / "floor.jsonl"), "owner/name")


def test_a_worker_that_lacks_a_file_leaves_the_request_in_the_queue(queue, tmp_path, monkeypatch):
    monkeypatch.setattr("asu_lora.requests.engines.quiet_worker.quiet", lambda: None)  # for other tests of this process
    queue.add("one")
    shop = queue.shop(policy=AuditPolicy(certify=Certifying(tmp_path / "only-elsewhere.pem")))
    with pytest.raises(CertificateError, match="can't be read"):
        RequestWorker(shop.places, shop.settings, "worker").work("one")
    assert queue.states() == {"one": "queued"} and queue.ledger.get("one").attempts == 0


@pytest.mark.parametrize("typed", [["--signing-key", "key.pem"], ["--issuer", "Office"], ["--valid", "90"]])
def test_terms_of_certificates_without_certificates_are_refused(typed, tmp_path, monkeypatch):
    monkeypatch.setenv("ASU_LORA_AUDIT_KEY", str(tmp_path / "key.pem"))  # one for all commands is no such wish
    done = CliRunner().invoke(main, ["requests", "run", "--store", str(tmp_path), *typed])
    assert done.exit_code == 2 and f"{typed[0]} is of certificates: add --certify" in done.stderr
    done = CliRunner().invoke(main, ["requests", "run", "--store", str(tmp_path)])
    assert "add --certify" not in done.stderr
