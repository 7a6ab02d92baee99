"""A certificate is trusted for its own model only, while it is the newest and has not expired."""

import re
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate import page as page_module
from asu_lora.audit.certificate.certify import certify_stored
from asu_lora.audit.certificate.identity import Audited
from asu_lora.audit.certificate.issue import Terms, issue
from asu_lora.audit.certificate.record import CERTIFICATE_NAME
from asu_lora.audit.certificate.signing_key import KEY_NAME, make_signing_key, public_key_of_store, read_public_key
from asu_lora.audit.certificate.verify import Evidence, verify_certificate
from asu_lora.errors import CertificateError
from tests.support.adapter_folders import add, flip_byte, in_memory  # noqa: F401
from tests.support.audits import audit
from tests.support.certificates import BASE, ROWS, certified, put_audit


@pytest.fixture
def made(in_memory):  # noqa: F811
    return certified(in_memory)


def problem(file, **evidence) -> str:
    with pytest.raises(CertificateError) as caught:
        verify_certificate(file, Evidence(**evidence)).raise_if_bad()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_whole_certificate_passes_every_check(made):
    report = verify_certificate(made.issued.file, Evidence(store=made.store, base_fingerprint=BASE, forget=ROWS))
    assert report.ok, report.checks
    assert [check.name for check in report.checks] == (
        ["signature", "key", "dates", "newest", "adapter kept", "base", "rows", "page"]
    )


def test_it_is_checked_away_from_its_store_with_the_key_and_the_folder_alone(made, tmp_path):
    folder = shutil.copytree(made.store.root / "kept", tmp_path / "copy")
    file = shutil.copy(made.issued.file, tmp_path / "letter.json")
    report = verify_certificate(tmp_path / "letter.json", Evidence(keys=[made.issued.public_key], adapters=[folder]))
    assert report.ok, report.checks
    assert "not known" in problem(tmp_path / "letter.json", adapters=[folder])
    flip_byte(folder / "adapter_config.json", 3)
    assert "its sha256 differs" in problem(tmp_path / file, keys=[made.issued.public_key], adapters=[folder])


def test_key_of_somebody_else_is_said(made, tmp_path):
    stranger = make_signing_key(tmp_path / "stranger.pem")
    made.again(Terms(key=stranger))
    assert f"{stranger.public[:16]}..., a key that is not known" in problem(made.issued.file, store=made.store)
    trusted = verify_certificate(made.issued.file, Evidence(keys=[stranger.public], store=made.store))
    assert trusted.ok and "signed with the trusted key" in trusted.checks[1].note


def test_a_key_that_is_given_stands_beside_the_stores_own_which_is_said(made, tmp_path):
    stranger = make_signing_key(tmp_path / "stranger.pem")
    report = verify_certificate(made.issued.file, Evidence(keys=[stranger.public], store=made.store))
    assert report.ok and "signed with this store's own key" in report.checks[1].note


def test_expired_and_not_yet_issued_are_refused(made):
    now = datetime.now(UTC)
    assert "it expired on" in problem(made.issued.file, store=made.store, now=now + timedelta(days=181))
    assert "still to come" in problem(made.issued.file, store=made.store, now=now - timedelta(days=1))
    assert verify_certificate(made.issued.file, Evidence(store=made.store, now=now + timedelta(days=179))).ok


def test_certificate_of_one_adapter_is_no_certificate_of_another(made, tmp_path):
    beside = shutil.copy(made.issued.file, made.store.root / "other" / CERTIFICATE_NAME)
    assert "it belongs to another adapter" in problem(made.store.root / "other" / CERTIFICATE_NAME, store=made.store)
    assert "another adapter" in problem(made.issued.file, store=made.store, adapters=[made.store.root / "other"])
    assert beside


def test_certificate_of_a_state_before_retraining_is_refused(made):
    file = shutil.copy(made.issued.file, made.store.root.parent / "old.json")
    add(made.store, "kept", seed=9, replace=True)
    assert "an older state" in problem(made.store.root.parent / "old.json", store=made.store)
    assert file


def test_older_certificate_is_refused_when_there_is_a_newer_one(made, tmp_path):
    old = tmp_path / "old.json"
    shutil.copy(made.issued.file, old)
    made.again()
    assert "number 2 of the same model is newer" in problem(old, store=made.store)
    # put back in its place: the archive knows better
    shutil.copy(old, made.issued.file)
    assert "number 2 of the same model is newer" in problem(made.issued.file, store=made.store)
    # without the store, the folder that comes along may hold the newer one
    made.again()
    folder = made.store.root / "kept"
    assert "number 3" in problem(old, keys=[made.issued.public_key], adapters=[folder])


def test_another_adapter_of_the_same_weights_has_a_certificate_of_its_own(made):
    """As two requests of the same rows have."""
    twin = add(made.store, "twin", seed=1)
    issue(made.store, Audited([(twin, 1.0)]), audit("twin"), ROWS)
    file = made.store.root / "twin" / CERTIFICATE_NAME
    assert all(verify_certificate(each, Evidence(store=made.store)).ok for each in (made.issued.file, file))
    old = shutil.copy(made.issued.file, made.store.root.parent / "old.json")
    made.again()
    assert "number 3 of the same model is newer" in problem(old, store=made.store)
    assert verify_certificate(file, Evidence(store=made.store)).ok


def test_a_newer_certificate_under_another_name_replaces_it_once_the_adapter_is_renamed(made):
    old = shutil.copy(made.issued.file, made.store.root.parent / "old.json")
    made.store.rename("kept", "renamed")
    issue(made.store, Audited([(made.store.get("renamed"), 1.0)]), audit("renamed"), ROWS)
    assert "number 2 of the same model is newer" in problem(old, store=made.store)
    add(made.store, "kept", seed=9)  # of other weights
    assert "number 2 of the same model is newer" in problem(old, store=made.store)


def test_renamed_adapter_keeps_its_certificate(made):
    made.store.rename("kept", "renamed")
    assert verify_certificate(made.store.root / "renamed" / CERTIFICATE_NAME, Evidence(store=made.store)).ok


def test_other_base_and_other_rows_are_refused(made):
    assert "the base at hand has 0000" in problem(made.issued.file, store=made.store, base_fingerprint="0" * 64)
    assert "row 2 is not the one" in problem(made.issued.file, store=made.store, forget=[ROWS[0], ROWS[2], ROWS[1]])
    assert "commits to 3 rows" in problem(made.issued.file, store=made.store, forget=ROWS[:2])


def test_page_that_says_something_else_is_refused(made):
    page = made.issued.page
    page.write_text(page.read_text().replace("brought back 94", "brought back 0"))
    assert "says something else" in problem(made.issued.file, store=made.store)


def as_of_another_version(text):
    return re.sub(r'(generator" content=")[^"]*', r"\1asu-lora 9.9", text)


def test_a_page_of_another_version_is_believed_by_its_signature_alone(made, monkeypatch):
    page, whole = made.issued.page, made.issued.page.read_text()
    for changed in (as_of_another_version(whole), as_of_another_version(whole.rpartition("<!-- ")[0])):
        page.write_text(changed.replace("brought back 94", "brought back 0"))
        assert "another version" in problem(made.issued.file, store=made.store)
    page.write_text(whole)
    drawn = page_module.render_page
    monkeypatch.setattr(page_module, "render_page", lambda signed: as_of_another_version(drawn(signed)))
    monkeypatch.setattr(page_module, "generator", lambda: "asu-lora 9.9")
    assert verify_certificate(made.issued.file, Evidence(store=made.store)).ok  # drawn by an earlier one, and signed
    page.write_text(whole.rpartition("<!-- ")[0])
    assert "'asu-lora audit page' draws it anew" in problem(made.issued.file, store=made.store)


def test_a_page_of_another_certificate_is_refused_although_it_is_signed(made):
    page, before = made.issued.page, made.issued.page.read_text()
    issued = made.again()
    page.write_text(before)
    assert "says something else" in problem(issued.file, store=made.store)


def test_folder_that_is_not_here_is_said_not_passed_over(made, tmp_path):
    shutil.copy(made.issued.file, tmp_path / "alone.json")
    report = verify_certificate(tmp_path / "alone.json", Evidence(keys=[made.issued.public_key]))
    notes = {check.name: check.note for check in report.checks}
    assert report.ok and "not hashed" in notes["adapter kept"] and "not looked at" in notes["base"]


def test_links_out_of_the_folder_are_refused(made, tmp_path):
    weights = made.store.root / "kept" / "adapter_model.safetensors"
    outside = tmp_path / "outside.safetensors"
    shutil.move(weights, outside)
    weights.symlink_to(outside)
    assert "a link that leads out of the folder" in problem(made.issued.file, store=made.store)
    shutil.copy(made.issued.file, tmp_path / "alone.json")
    shutil.move(made.store.root / "kept", tmp_path / "elsewhere")
    (made.store.root / "kept").symlink_to(tmp_path / "elsewhere")
    assert "a link that leads out" in problem(tmp_path / "alone.json", store=made.store)


def test_public_key_is_read_from_digits_file_and_pem(made, tmp_path):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = make_signing_key(tmp_path / "key.pem")
    pem = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "pub.pem").write_bytes(pem)
    (tmp_path / "pub.txt").write_text(key.public + "\n")
    for given in (key.public, str(tmp_path / "pub.pem"), str(tmp_path / "pub.txt")):
        assert read_public_key(given) == key.public
    (tmp_path / "junk").write_bytes(b"\xff\x00junk")
    for given in ("12", str(tmp_path / "junk"), str(tmp_path / "none"), "a\0b", str(tmp_path)):
        with pytest.raises(CertificateError):
            read_public_key(given)


def test_a_key_that_was_replaced_is_the_store_s_from_its_first_certificate_on(made):
    (made.store.root / KEY_NAME).unlink()
    issued = made.again()
    assert issued.public_key == public_key_of_store(made.store) != made.issued.public_key
    assert verify_certificate(issued.file, Evidence(store=made.store)).ok


def test_numbers_of_another_store_are_no_newer_ones(made, tmp_path):
    store = AdapterStore(tmp_path / "store")
    store.import_(made.store.export("kept", tmp_path / "kept.tar.gz"))
    put_audit(store, audit("kept"), (ROWS * 7)[:20])  # as many as the manifest tells, so of the same request
    for _ in range(3):
        certify_stored(store, "kept", (ROWS * 7)[:20])
    foreign = shutil.copy(made.issued.file, tmp_path / "foreign.json")
    assert verify_certificate(tmp_path / "foreign.json", Evidence(keys=[made.issued.public_key], store=store)).ok
    # in its own store any key's newer one counts
    made.again(Terms(key=make_signing_key(tmp_path / "key.pem")))
    assert "number 2 of the same model" in problem(tmp_path / "foreign.json", store=made.store)
    assert foreign
