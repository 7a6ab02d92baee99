"""A certificate goes along with an exported adapter, and is checked where it arrives."""

import json
import shutil

import pytest
from click.testing import CliRunner

from asu_lora.adapters.manifest import BaseRecord, read_manifest, write_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.certify import certify_stored
from asu_lora.audit.certificate.verify import Evidence, verify_certificate
from asu_lora.cli import main
from tests.support.adapter_folders import fill, in_memory, write_lora  # noqa: F401
from tests.support.audits import audit
from tests.support.certificates import ROWS, put_audit


@pytest.fixture(params=["absolute", "relative"])
def made(request, in_memory, monkeypatch):  # noqa: F811
    """A certified adapter on a base in a local folder, and what was issued."""
    monkeypatch.chdir(in_memory)
    (in_memory / "models" / "llama").mkdir(parents=True)
    base = "models/llama" if request.param == "relative" else str(in_memory / "models" / "llama")
    store = AdapterStore(in_memory / "store")
    with store.stage("kept") as folder:
        fill(folder, "kept")
        write_lora(folder, base_model_name_or_path=base)
        record = BaseRecord(id=base, fingerprint="ba5e" * 16, precision="fp32")
        write_manifest(folder, read_manifest(folder).model_copy(update={"base": record}))
    put_audit(store, audit("kept"))
    return store, certify_stored(store, "kept", ROWS)


def trusted(file, **evidence) -> bool:
    return verify_certificate(file, Evidence(**evidence)).ok


def test_it_is_right_in_the_store_and_where_the_adapter_was_exported_to(made, tmp_path, monkeypatch):
    store, issued = made
    out = store.export("kept", tmp_path / "out")
    assert trusted(issued.file, store=store)
    assert trusted(out / "certificate.json", keys=[issued.public_key], adapters=[out])
    monkeypatch.chdir(tmp_path)
    assert trusted(issued.file, store=store), "from another folder, too"
    other = AdapterStore(tmp_path / "other")
    other.import_(out)
    assert trusted(other.root / "kept" / "certificate.json", keys=[issued.public_key], store=other)


@pytest.mark.parametrize("change", [{"lora_alpha": 1}, {"base_model_name_or_path": "evil/llama"}])
def test_other_settings_are_no_other_spelling_of_the_base(made, tmp_path, change):
    store, issued = made
    out = store.export("kept", tmp_path / "out")
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(config | change, indent=2, sort_keys=True))
    assert not trusted(out / "certificate.json", keys=[issued.public_key], adapters=[out])
    if "lora_alpha" in change:
        shutil.copy(out / "adapter_config.json", store.root / "kept")
        assert not trusted(issued.file, store=store)


def test_an_import_keeps_a_certificate_of_this_adapter_alone(made, tmp_path):
    store, issued = made
    out = store.export("kept", tmp_path / "out")
    there = tmp_path / "there"

    def imported(folder, name):
        words = ["adapters", "import", str(folder), "--name", name, "--store", str(there)]
        found = CliRunner().invoke(main, words)
        assert found.exit_code == 0, found.output
        return found.stderr

    told = imported(out, "a")
    assert f"Its certificate {issued.certificate.serial} is of this adapter" in told
    assert (there / "a" / "certificate.json").is_file()
    with store.stage("other") as folder:
        fill(folder, "other", seed=9)
    shutil.copy(out / "certificate.json", store.export("other", tmp_path / "of-another"))
    (out / "certificate.json").write_text((out / "certificate.json").read_text().replace("3", "4", 1))
    for folder in (out, tmp_path / "of-another"):
        assert "was left behind, for it is not to be trusted" in imported(folder, folder.name)
        assert not (there / folder.name / "certificate.json").exists()
    assert AdapterStore(there).verify("of-another").ok
