"""A certificate says what was asked, done and tried, in hashes and figures, and is whole or not there at all."""

import json
import math
import os
import stat

import pytest

from asu_lora.adapters.request_key import read_key
from asu_lora.audit.certificate.archive import archive_entries, last_serial
from asu_lora.audit.certificate.canonical import canonical
from asu_lora.audit.certificate.commitments import commit, opens, row_bytes, row_salt
from asu_lora.audit.certificate.identity import Audited
from asu_lora.audit.certificate.issue import Terms, issue
from asu_lora.audit.certificate.limits import most_unseen
from asu_lora.audit.certificate.record import moment
from asu_lora.audit.certificate.signed import PREFIX, read_signed
from asu_lora.audit.certificate.signing_key import KEY_NAME, make_signing_key
from asu_lora.audit.certificate.verify import Evidence, verify_certificate
from asu_lora.audit.results import AttackResult, Rate, Reading
from asu_lora.errors import AsuLoraError, CertificateError, SettingError
from tests.support.adapter_folders import add, files_of, flip_byte, in_memory  # noqa: F401
from tests.support.audits import ago, audit
from tests.support.certificates import ROWS, certified


@pytest.fixture
def made(in_memory):  # noqa: F811
    return certified(in_memory)


def test_signature_holds_for_somebody_with_plain_libraries(made):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    envelope = json.loads(made.issued.file.read_text())
    text = json.dumps(envelope["certificate"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(made.issued.public_key))
    key.verify(bytes.fromhex(envelope["signature"]), PREFIX + canonical(json.loads(text)))


def test_it_holds_hashes_of_every_file_that_decides_the_answers(made):
    adapter = made.issued.certificate.done.adapters[0]
    manifest = made.store.get("kept").manifest
    assert adapter.files == {n: manifest.files[n] for n in ("adapter_config.json", "adapter_model.safetensors")}
    assert adapter.fingerprint == manifest.fingerprint
    assert (adapter.objective, adapter.tau) == ("asu", 2.0)


def test_no_word_of_the_request_is_in_any_file_of_the_store(made):
    words = {
        w.strip(".,?") for row in ROWS for w in (row.question + " " + row.answer).split() if len(w.strip(".,?")) > 4
    }
    assert "Quillfeather" in words
    for name, data in files_of(made.store.root).items():
        found = [word for word in words if word.encode() in data]
        assert not found, (name, found)


def test_commitments_open_with_text_and_salt_and_with_nothing_else(made):
    asked, secret = made.issued.certificate.asked, read_key(made.store.root)
    salt = row_salt(secret, asked.nonce, 1)
    assert opens(asked.commitments[1], salt, row_bytes(ROWS[1]))
    assert not opens(asked.commitments[1], salt, row_bytes(ROWS[2]))
    assert not opens(asked.commitments[1], row_salt(secret, asked.nonce, 0), row_bytes(ROWS[1]))
    assert not opens(asked.commitments[1], row_salt(bytes(32), asked.nonce, 1), row_bytes(ROWS[1]))


def test_same_rows_are_committed_to_differently_each_time(made):
    first, second = made.issued.certificate.asked, made.again().certificate.asked
    assert not set(first.commitments) & set(second.commitments)


def test_commitment_is_hmac_sha_256():
    # RFC 4231, test case 2
    assert commit(b"Jefe", b"what do ya want for nothing?").startswith("5bdcc146bf60754e6a042426089575c7")


def test_numbers_grow_and_the_archive_keeps_all(made):
    assert made.issued.certificate.serial == 1
    assert made.again().certificate.serial == 2
    assert last_serial(made.store) == 2
    assert [serial for serial, _, _ in archive_entries(made.store)] == [1, 2]
    assert read_signed(next(archive_entries(made.store))[2]).certificate == made.issued.certificate


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_private_key_is_its_owners_alone_and_a_looser_one_is_refused(made):
    key = made.store.root / KEY_NAME
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    with pytest.raises(CertificateError, match="chmod 600"):
        made.again()


def test_key_of_ones_own_signs(made, tmp_path):
    key = make_signing_key(tmp_path / "office.pem")
    assert made.again(Terms(key=key)).public_key == key.public != made.issued.public_key
    with pytest.raises(CertificateError, match="never written over"):
        make_signing_key(tmp_path / "office.pem")


def test_changed_weights_are_not_certified_and_the_store_stays_as_it_was(made):
    flip_byte(made.store.root / "kept" / "adapter_model.safetensors", -1)
    before = files_of(made.store.root)
    with pytest.raises(CertificateError, match="not the file that was recorded"):
        made.again()
    assert files_of(made.store.root) == before


def test_a_figure_that_is_no_number_is_not_certified(made):
    nan = Rate(value=math.nan, low=0.0, high=1.0, rows=3)
    found = [AttackResult(attack="direct", kind="asking", readings=[Reading(figure="facts", candidate=nan)])]
    before = files_of(made.store.root)
    with pytest.raises(AsuLoraError, match="canonical"):
        issue(made.store, Audited([(made.store.get("kept"), 1.0)]), audit("kept", found))
    assert files_of(made.store.root) == before


def test_terms_out_of_range_are_refused():
    with pytest.raises(SettingError, match="1 to 3650"):
        Terms(valid_days=0)
    with pytest.raises(SettingError, match="1 to 200"):
        Terms(issuer=" ")


def test_it_expires_by_the_day_of_the_attacks_and_not_of_the_signature(made):
    old = audit("kept", finished=ago(days=100))
    issued = issue(made.store, Audited([(made.store.get("kept"), 1.0)]), old, ROWS, Terms(valid_days=120))
    left = moment(issued.certificate.expires) - moment(issued.certificate.issued)
    assert 19 <= left.days <= 20
    [age] = [limit.text for limit in issued.certificate.limits if limit.about == "Age"]
    assert "100 days before this was issued" in age and old.finished[:10] in age
    assert "Age" not in {limit.about for limit in made.issued.certificate.limits}
    told = {check.name: check.note for check in verify_certificate(issued.file, Evidence(store=made.store)).checks}
    assert "its attacks are 100 days old" in told["dates"]


@pytest.mark.parametrize(
    "days, said", [pytest.param(181, "181 days ago", id="old"), pytest.param(None, "names no time", id="of no day")]
)
def test_attacks_of_long_ago_or_of_no_day_are_not_certified(made, days, said):
    finished = ago(days=days) if days else "lately"
    before = files_of(made.store.root)
    with pytest.raises(CertificateError, match=said):
        issue(made.store, Audited([(made.store.get("kept"), 1.0)]), audit("kept", finished=finished), ROWS)
    assert files_of(made.store.root) == before


def test_adapter_without_a_manifest_is_certified_by_its_files(made, tmp_path):
    from tests.support.adapter_folders import write_lora

    adapter = made.store.import_(write_lora(tmp_path / "plain", seed=5), "plain")
    issued = issue(made.store, Audited([(adapter, 1.0)]), audit("plain"))
    assert issued.certificate.done.base is None
    assert set(issued.certificate.done.adapters[0].files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert issued.certificate.asked.commitments == []


def test_merged_folder_outside_the_store_takes_its_certificate(made, tmp_path):
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "config.json").write_text("{}")
    (merged / "model.safetensors").write_bytes(b"weights")
    (merged / "README.md").write_text("about")
    adapter = made.store.get("kept")
    issued = issue(made.store, Audited([(adapter, 1.0)], merged), audit("kept", audited="merged", names=[]), ROWS)
    assert set(issued.certificate.done.merged) == {"config.json", "model.safetensors"}
    assert issued.file == merged / "certificate.json" and issued.page.is_file()
    assert last_serial(made.store) == 2


def test_store_still_works_with_certificates_in_it(made, tmp_path):
    assert made.store.names() == ["kept", "other"]
    assert made.store.verify("kept").ok
    made.store.rename("kept", "renamed")
    made.store.export("renamed", tmp_path / "out.tar.gz")
    assert made.store.import_(tmp_path / "out.tar.gz", "back").state == "ready"
    add(made.store, "third", seed=3)


@pytest.mark.parametrize("rows", [1, 20, 300])
def test_rows_that_may_still_leak_are_the_exact_bound(rows):
    from scipy.stats import binomtest

    assert most_unseen(rows) == pytest.approx(binomtest(0, rows).proportion_ci(0.95, "exact").high)


def test_limits_name_the_paragraphs_and_what_was_not_tried(made):
    limits = {limit.about: limit.text for limit in made.issued.certificate.limits}
    assert "paragraph 43" in limits["Anonymity"] and "paragraph 55" in limits["Scope"]
    assert "paragraph 58" in limits["Documentation"]
    assert "gguf q4" in limits["Scope"]
    assert made.issued.certificate.precisions == ["bf16", "fp32", "int8", "nf4"]
    assert made.issued.certificate.languages == ["as handed in", "en", "de"]
