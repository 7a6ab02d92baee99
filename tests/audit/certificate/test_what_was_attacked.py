"""Only what an audit of this store attacked is certified: those adapters, those merged files, those rows."""

import json
import shutil

import pytest

from asu_lora.adapters.lora_folder import read_lora
from asu_lora.adapters.manifest import read_manifest, write_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.certify import certify_merged, certify_stored, read_audit
from asu_lora.audit.certificate.record import CERTIFICATE_NAME
from asu_lora.audit.results import AUDIT_NAME, SCHEMA_VERSION
from asu_lora.data.examples import question_answer
from asu_lora.errors import CertificateError
from asu_lora.merging.merge_record import RECORD_NAME, write_record
from tests.support.adapter_folders import add, files_of, fill, in_memory  # noqa: F401
from tests.support.audits import audit
from tests.support.certificates import ROWS, certified, put_audit

PAIR = {"audited": "stack", "names": ["kept", "other"]}


@pytest.fixture
def made(in_memory):  # noqa: F811
    return certified(in_memory)


@pytest.fixture
def merged(tmp_path):
    folder = tmp_path / "merged"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def refused(certify, *words, **more) -> str:
    with pytest.raises(CertificateError) as caught:
        certify(*words, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_adapter_beneath_that_was_replaced_since_is_not_certified(made):
    put_audit(made.store, audit("other", **PAIR))
    assert len(certify_stored(made.store, "other", ROWS).certificate.done.adapters) == 2
    add(made.store, "kept", seed=77, replace=True)
    before = files_of(made.store.root)
    said = refused(certify_stored, made.store, "other")
    assert "kept is not the one that was attacked" in said and "anew" in said
    assert files_of(made.store.root) == before


def test_settings_that_were_changed_with_the_manifest_are_not_certified(made):
    put_audit(made.store, audit("other"))
    folder = made.store.root / "other"
    config = json.loads((folder / "adapter_config.json").read_text())
    with made.store.stage("other", replace=True) as stage:
        fill(stage, "other", seed=2)
        (stage / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 1}))
        write_manifest(stage, read_manifest(stage))
        shutil.copy(folder / AUDIT_NAME, stage)
    assert "other is not the one" in refused(certify_stored, made.store, "other")


def test_rows_that_were_not_attacked_are_not_committed_to(made):
    put_audit(made.store, audit("other"))
    assert "attacked 3 rows, and these are 2" in refused(certify_stored, made.store, "other", ROWS[:2])
    assert "not of the rows of --forget" in refused(certify_stored, made.store, "other", ROWS[::-1])


def test_commitments_to_other_rows_are_not_carried_over(made):
    add(made.store, "third", seed=3)
    manifest = made.store.get("third").manifest
    rows = [question_answer(f"What is at {number}?", f"Nobody, {number}.") for number in range(20)]
    assert manifest.request.forget_rows == len(rows)
    put_audit(made.store, audit("third"), rows)
    assert len(certify_stored(made.store, "third", rows).certificate.asked.commitments) == 20
    assert len(certify_stored(made.store, "third").certificate.asked.commitments) == 20
    put_audit(made.store, audit("third"), [*rows[1:], ROWS[1]])
    assert "commits to other rows" in refused(certify_stored, made.store, "third")


def test_a_part_of_a_request_is_certified_as_a_part(made):
    put_audit(made.store, audit("other"))
    asked = certify_stored(made.store, "other", ROWS).certificate.asked
    assert (asked.forget_rows, asked.request, len(asked.commitments)) == (3, None, 3)


def test_an_audit_from_elsewhere_is_not_signed(made, tmp_path):
    foreign = AdapterStore(tmp_path / "store")
    add(foreign, "mallory", seed=5)
    put_audit(foreign, audit("mallory"))
    made.store.import_(foreign.root / "mallory")
    said = refused(certify_stored, made.store, "mallory")
    assert "was not written by an audit with the store" in said and "--store" in said
    certify_stored(foreign, "mallory")


def test_an_audit_that_was_changed_by_hand_is_not_signed(made):
    file = put_audit(made.store, audit("other"))
    file.write_text(file.read_text().replace('"value": 0.09', '"value": 0.01', 1))
    assert "was changed since" in refused(certify_stored, made.store, "other")


def test_an_audit_of_an_earlier_version_is_read_and_has_to_be_made_anew(made):
    told = json.loads(audit("other").model_dump_json())
    for name in ("attacked", "mark"):
        del told[name]
    file = made.store.root / "other" / AUDIT_NAME
    file.write_text(json.dumps(told | {"schema_version": 1}))
    assert read_audit(file.parent).schema_version == 1
    assert "is of an earlier version" in refused(certify_stored, made.store, "other")
    # one that the same key certified already may be certified on
    shutil.copy(made.store.root / "kept" / CERTIFICATE_NAME, file.parent)
    tried = json.loads(made.issued.file.read_text())["certificate"]["tried"]
    (made.store.root / "kept" / AUDIT_NAME).write_text(json.dumps(tried))
    assert certify_stored(made.store, "kept").certificate.asked.commitments
    assert "not of the rows" in refused(certify_stored, made.store, "kept", ROWS)


def test_an_audit_of_a_later_version_is_not_guessed_at(made):
    file = put_audit(made.store, audit("other"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": SCHEMA_VERSION + 1}))
    assert "upgrade" in refused(certify_stored, made.store, "other")


def test_merged_files_that_changed_since_the_audit_are_not_certified(made, merged):
    put_audit(made.store, audit(audited="merged", names=[]), merged=merged)
    certify_merged(made.store, merged, [("kept", 1.0)], ROWS)
    (merged / "model.safetensors").write_bytes(b"others!")
    assert "not those that were attacked" in refused(certify_merged, made.store, merged, [("kept", 1.0)])


def test_merged_weights_are_not_certified_as_those_of_another_adapter(made, merged):
    (merged / "merge_report.json").write_text(json.dumps({"adapters": [{"name": "kept", "weight": 0.5}]}))
    put_audit(made.store, audit(audited="merged", names=[]), merged=merged)
    for given in ([("other", 0.5)], [("kept", 1.0)], [("kept", 0.5), ("other", 1.0)]):
        assert "kept:0.5 was merged" in refused(certify_merged, made.store, merged, given)
    found = certify_merged(made.store, merged, [("kept", 0.5)]).certificate
    [said] = [limit.text for limit in found.limits if limit.about == "What is inside"]
    assert "rests on the issuer" in said


def test_a_merge_tells_by_hashes_what_is_in_it_and_another_adapter_is_not_certified(made, merged):
    inside = [(read_lora(made.store.root / name), weight) for name, weight in (("kept", 0.5), ("other", 1.0))]
    write_record(merged, inside)
    assert "kept" not in (merged / RECORD_NAME).read_text()
    put_audit(made.store, audit(audited="merged", names=[]), merged=merged)
    for given in ([("kept", 0.5)], [("kept", 1.0), ("other", 0.5)], [("kept", 0.5), ("kept", 1.0)]):
        assert "2 of weight 0.5, 1 were merged" in refused(certify_merged, made.store, merged, given)
    certify_merged(made.store, merged, [("other", 1.0), ("kept", 0.5)])
    (merged / RECORD_NAME).write_text("{}")
    assert "not those that were attacked" in refused(certify_merged, made.store, merged, [("kept", 1.0)])
