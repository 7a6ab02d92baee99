"""Certificates of the queue: issued with the audit, kept true after the text is gone, and with earlier requests' figures."""

import hashlib
import json

import pytest

from asu_lora.audit.certificate.certify import certify_stored
from asu_lora.audit.certificate.record import CERTIFICATE_NAME, PAGE_NAME
from asu_lora.audit.certificate.signed import read_signed
from asu_lora.audit.certificate.signing_key import make_signing_key
from asu_lora.audit.certificate.verify import Evidence, verify_certificate
from asu_lora.cli.requests.show import certificate as shown
from asu_lora.errors import SettingError
from asu_lora.report.contents import gather
from asu_lora.requests.forget_text import forget_text
from asu_lora.requests.key import ENVIRONMENT, new_key
from asu_lora.requests.ledger.claims import Worker, claim_one
from asu_lora.requests.ledger.states import AUDITED, CERTIFIED, RE_AUDITED, TEXT_DESTROYED, TRAINED, Line
from asu_lora.requests.runner.audit_policy import AuditPolicy, Certifying
from asu_lora.requests.runner.audit_step import audit_adapter
from asu_lora.requests.runner.certifying import earlier_effects
from asu_lora.requests.runner.run import run
from asu_lora.requests.runner.settings import RunSettings
from asu_lora.requests.withdrawal import withdraw
from tests.support.adapter_folders import truncate
from tests.support.request_queue import Queue, asked_directly, counting_audit


def line(number, event, request, worst=None, depth="quick"):
    payload = {} if worst is None else {"worst": worst, "depth": depth}
    return Line(number, "", "", request, event, payload, "", "")


def test_effects_pair_the_last_audit_before_a_training_with_the_first_after_it():
    lines = [
        line(1, AUDITED, "a", 0.5),
        line(2, RE_AUDITED, "a", 0.1),
        line(3, AUDITED, "b", 0.2),
        line(4, AUDITED, "gone", 0.2),
        line(5, AUDITED, "deeper", 0.2),
        line(6, AUDITED, "silent"),
        line(7, TRAINED, "new"),
        line(8, AUDITED, "new", 0.9),
        line(9, RE_AUDITED, "a", 0.15),
        line(10, RE_AUDITED, "b", 0.6),
        line(11, RE_AUDITED, "deeper", 0.9, depth="full"),
        line(12, RE_AUDITED, "gone", 0.9),
        line(13, TRAINED, "newer"),
        line(14, RE_AUDITED, "a", 0.99),
    ]
    found = earlier_effects(lines, "new", {"a", "b", "new", "newer", "deeper", "silent"})
    assert [(effect.name, effect.before, effect.after) for effect in found] == [("b", 0.2, 0.6), ("a", 0.1, 0.15)]
    assert earlier_effects(lines, "a", {"a", "b"}) == []


def test_certificates_of_real_audits_outlive_the_text(tmp_path, taught_base, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, new_key())
    queue, key_file = Queue(tmp_path, taught_base), tmp_path / "key.pem"
    key = make_signing_key(key_file)
    policy = AuditPolicy(fail_over=9.0, certify=Certifying(key_file, "Data Protection Office", 90))

    def certificate(name):
        signed = read_signed(queue.store.resolve(name) / CERTIFICATE_NAME)
        assert signed.public_key == key.public
        return signed.certificate

    queue.add("first")
    [outcome] = queue.run(audit_adapter, policy=policy).outcomes
    found = certificate("first")
    assert outcome.certificate == found.serial == 1 and found.issuer == "Data Protection Office"
    assert len(found.asked.commitments) == 1 and found.earlier == []

    queue.add("second")
    queue.run(audit_adapter, policy=policy, re_audit=False)
    forget_text(queue.ledger, queue.store, "second")
    report = queue.run(audit_adapter, policy=policy, forget_text=True)
    assert {request.text for request in queue.ledger.requests()} == {TEXT_DESTROYED}
    assert report.follow_up.certified == ["second"]
    first, second = certificate("first"), certificate("second")
    assert first.done.audited == "stack" and first.serial == 3 and second.serial == 4
    [effect] = second.earlier
    told = [line.payload["worst"] for line in queue.ledger.history("first", [AUDITED, RE_AUDITED])]
    assert (effect.name, [effect.before, effect.after]) == ("first", told)
    was = json.loads((queue.store.root / ".certificates").glob("00000002-*").__next__().read_text())["certificate"]
    assert second.asked.commitments == was["asked"]["commitments"] != [], "the text they commit to is gone"
    assert queue.ledger.verify().whole

    assert queue.run(audit_adapter, policy=policy).follow_up.certified == [], "nothing is signed twice"


def on_disk(queue, name):
    return read_signed(queue.store.resolve(name) / CERTIFICATE_NAME)


def test_an_audit_that_is_not_passed_is_not_certified_by_what_follows(queue):
    policy = AuditPolicy(fail_over=9.0, certify=Certifying())
    queue.add("first")
    queue.run(asked_directly(), policy=policy)
    queue.add("second")
    queue.run(asked_directly(), policy=policy, re_audit=False)
    before = on_disk(queue, "second")
    queue.add("third")
    report = queue.run(asked_directly(over=lambda stack: stack == ("first", "third", "second")), policy=policy)
    assert report.follow_up.over == {"second": "Too much."} and "second" not in report.follow_up.certified

    # the one that it had speaks of an audit that is not the last
    assert report.follow_up.ended == ["second"] and on_disk(queue, "third")
    assert not [file for file in (CERTIFICATE_NAME, PAGE_NAME) if (queue.store.resolve("second") / file).exists()]
    number = before.certificate.serial
    assert queue.ledger.history("second", ["certificate-ended"])[-1].payload == {"ended": number}
    [archived] = (queue.store.root / ".certificates").glob(f"{number:08d}-*")
    assert archived.read_bytes() == before.data
    assert f"no. {number} holds no longer" in shown(queue.ledger.history("second"))
    states = {known.name: known.certificate.state for known in gather(queue.store).adapters}
    assert states == {"first": "valid", "second": "ended", "third": "valid"}
    queue.add("fourth")
    report = queue.run(asked_directly(), policy=policy)
    assert report.follow_up.ended == [] and on_disk(queue, "second").certificate.serial > number
    assert shown(queue.ledger.history("second")).startswith("no. ") and queue.ledger.verify().whole


def test_the_requests_of_one_stack_have_a_certificate_each_and_none_replaces_another(queue):
    queue.add("first", "second")
    queue.run(asked_directly(), policy=AuditPolicy(fail_over=9.0, certify=Certifying()))
    assert on_disk(queue, "first").certificate.done.subject() == on_disk(queue, "second").certificate.done.subject()
    for name in ("first", "second"):
        file = queue.store.resolve(name) / CERTIFICATE_NAME
        found = verify_certificate(file, Evidence(store=queue.store))
        assert found.ok, [check.problem for check in found.checks if check.problem]
    assert {known.certificate.state for known in gather(queue.store).adapters} == {"valid"}


def test_a_certificate_that_says_itself_what_came_back_stays(queue):
    queue.add("weak")
    queue.run(asked_directly(over=lambda stack: True), policy=AuditPolicy(fail_over=9.0))
    certify_stored(queue.store, "weak")
    report = queue.run(asked_directly())
    assert report.follow_up.ended == [] and on_disk(queue, "weak")


def test_what_another_run_audits_at_the_moment_is_left_to_it(queue):
    policy = AuditPolicy(fail_over=9.0, certify=Certifying())
    queue.add("first", "second")
    queue.run(asked_directly(), policy=policy, re_audit=False)

    def hold(stack):
        claim_one(queue.ledger, Worker.here("another"), "second", (AUDITED,))
        return False

    report = queue.run(asked_directly(over=hold), policy=policy)
    assert report.follow_up.re_audited == ["first"] and report.follow_up.certified == []


def test_a_certificate_that_can_not_be_issued_anew_keeps_its_commitments_and_stops_no_run(queue, tmp_path):
    key, other = tmp_path / "key.pem", tmp_path / "other.pem"
    make_signing_key(key)
    make_signing_key(other)
    queue.add("first", "second")
    policy = AuditPolicy(fail_over=9.0, certify=Certifying(key))
    queue.run(asked_directly(), policy=policy, most=1)
    queue.run(asked_directly(), policy=policy, re_audit=False, most=1)
    before = on_disk(queue, "second")
    forget_text(queue.ledger, queue.store, "second")

    policy = AuditPolicy(fail_over=9.0, certify=Certifying(other))
    report = queue.run(asked_directly(), policy=policy, consolidate=2)
    assert "another key" in report.follow_up.not_certified["second"] and report.follow_up.combined
    assert on_disk(queue, "second").data == before.data

    policy = AuditPolicy(fail_over=9.0, certify=Certifying(key))
    shop = queue.shop(asked_directly(), policy=policy)
    shop.publish = lambda name: (_ for _ in ()).throw(KeyboardInterrupt)  # signed, and not yet written down
    with pytest.raises(KeyboardInterrupt):
        run(shop)
    issued = on_disk(queue, "second")
    assert issued.certificate.earlier and issued.certificate.asked.commitments
    assert queue.run(asked_directly(), policy=policy).follow_up.certified == []
    told = queue.ledger.history("second", [CERTIFIED])[-1].payload
    assert told["certificate_hash"] == hashlib.sha256(issued.data).hexdigest()
    assert told["certificate"] == issued.certificate.serial and queue.ledger.verify().whole


def test_one_that_can_not_be_certified_anew_is_said_and_the_others_go_on(queue):
    policy = AuditPolicy(fail_over=9.0, certify=Certifying())
    queue.add("first", "gone", "torn", "last")
    queue.run(asked_directly(), policy=policy, re_audit=False)
    queue.run(asked_directly(), policy=policy)
    for name in ("first", "gone", "torn", "last"):
        forget_text(queue.ledger, queue.store, name)
    withdraw(queue.ledger, queue.store, "gone")
    truncate(queue.store.root / "torn" / "adapter_model.safetensors")
    for _ in range(2):
        report = queue.run(asked_directly(), policy=policy)
        assert set(report.follow_up.not_certified) == {"last", "torn"}
        assert "run 'asu-lora audit last' anew" in report.follow_up.not_certified["last"]
        assert "broken" in report.follow_up.not_certified["torn"]


def test_a_run_without_certify_issues_none(queue):
    queue.add("one")
    report = queue.run(counting_audit([]))
    assert report.outcomes[0].certificate is None
    assert not (queue.store.resolve("one") / CERTIFICATE_NAME).exists()


def test_certificates_without_audits_are_refused():
    with pytest.raises(SettingError, match="--no-audit"):
        RunSettings("base", audit=False, policy=AuditPolicy(certify=Certifying()))
