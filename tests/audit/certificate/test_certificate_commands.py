"""The commands around certificates, as they are typed."""

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from asu_lora.adapters.manifest import write_manifest
from asu_lora.audit.certificate.certify import certify_merged
from asu_lora.audit.certificate.signed import read_signed
from asu_lora.audit.results import AUDIT_NAME
from asu_lora.bases.fingerprint import earlier_fingerprint
from asu_lora.cli import main
from tests.support.adapter_folders import in_memory  # noqa: F401
from tests.support.audits import audit
from tests.support.certificates import ROWS, certified, put_audit


@pytest.fixture
def made(in_memory):  # noqa: F811
    return certified(in_memory)


def typed(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_audit_is_certified_and_its_certificate_passes(made, tmp_path):
    request = tmp_path / "request.jsonl"
    request.write_text("\n".join(json.dumps({"question": row.question, "answer": row.answer}) for row in ROWS))
    put_audit(made.store, audit("other"))
    ran = typed("audit", "certify", "other", "--forget", request, "--issuer", "Büro", "--store", made.store.root)
    assert ran.exit_code == 0, ran.output
    assert "Certificate 2 of other" in ran.output
    file = made.store.root / "other" / "certificate.json"
    ran = typed("audit", "verify", file, "--store", made.store.root, "--forget", request)
    assert ran.exit_code == 0, ran.output
    assert "rows: all 3 are those that were certified" in ran.output
    ran = typed("audit", "verify", file, "--store", made.store.root, "--json")
    assert json.loads(ran.output)["ok"] is True


def test_a_stack_is_certified_at_the_weights_at_which_it_was_attacked(made):
    found = audit("other", audited="stack", names=["kept", "other"], weights=[0.5, 2.0])
    put_audit(made.store, found)
    assert typed("audit", "certify", "other", "--store", made.store.root).exit_code == 0
    signed = read_signed(made.store.root / "other" / "certificate.json")
    assert [(a.name, a.weight) for a in signed.certificate.done.adapters] == [("kept", 0.5), ("other", 2.0)]
    page = (made.store.root / "other" / "certificate.html").read_text()
    assert "Active at weight</dt><dd>0.5" in page and "Active at weight</dt><dd>2<" in page


def test_weights_that_are_not_those_of_the_adapters_are_refused(made):
    found = audit("other").model_dump_json().replace('"weights":[]', '"weights":[1.0, 0.5]')
    (made.store.root / "other" / AUDIT_NAME).write_text(found)
    ran = typed("audit", "certify", "other", "--store", made.store.root)
    assert ran.exit_code == 2 and "another number of weights" in ran.stderr and ran.stderr.count("\n") == 1


def test_merged_folder_is_certified_with_what_was_baked_in(made, tmp_path):
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "config.json").write_text("{}")
    (merged / "model.safetensors").write_bytes(b"weights")
    put_audit(made.store, audit("kept", audited="merged", names=[]), merged=merged)
    store = ("--store", made.store.root)
    assert typed("audit", "certify", "kept", "other:0.5", *store).exit_code == 2
    ran = typed("audit", "certify", "kept", "other:0.5", "--merged", merged, *store)
    assert ran.exit_code == 0, ran.output
    ran = typed("audit", "verify", merged / "certificate.json", *store)
    assert ran.exit_code == 0 and "merged: 2 files as certified" in ran.output, ran.output
    (merged / "model.safetensors").write_bytes(b"others!")
    ran = typed("audit", "verify", merged / "certificate.json", *store)
    assert ran.exit_code == 2 and "model.safetensors" in ran.stderr


@pytest.mark.parametrize("name", ["model.safetensors", "modeling_x.py", "adapter_config.json", "pytorch_model.bin"])
def test_a_file_that_was_put_beside_certified_ones_is_refused(made, tmp_path, name):
    merged = tmp_path / "merged"
    merged.mkdir()
    for file in ("config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors", "code.py"):
        (merged / file).write_text("{}")
    put_audit(made.store, audit("kept", audited="merged", names=[]), merged=merged)
    certify_merged(made.store, merged, [("kept", 1.0)])
    verify = ("audit", "verify", merged / "certificate.json", "--store", made.store.root)
    for beside in ("README.md", "merge_report.json", "LICENSE", AUDIT_NAME):
        (merged / beside).write_text("{}")
    assert typed(*verify).exit_code == 0
    (merged / name).write_bytes(b"evil")
    ran = typed(*verify)
    assert ran.exit_code == 2 and f"{name} in" in ran.stderr and ran.stderr.count("\n") == 1
    (merged / name).unlink()
    (merged / "code.py").write_text("evil")
    assert "code.py" in typed(*verify).stderr


def test_an_adapter_with_a_name_that_no_certificate_has_is_refused(made):
    shutil.copytree(made.store.root / "other", made.store.root / "my adapter")
    put_audit(made.store, audit("my adapter"))
    ran = typed("audit", "certify", "my adapter", "--store", made.store.root)
    assert ran.exit_code == 2 and "rename" in ran.stderr and ran.stderr.count("\n") == 1
    assert typed("adapters", "rename", "my adapter", "mine", "--store", made.store.root).exit_code == 0
    put_audit(made.store, audit("mine"))
    assert typed("audit", "certify", "mine", "--store", made.store.root).exit_code == 0


def test_distrust_is_one_sentence_and_exit_code_2(made, tmp_path):
    data = made.issued.file.read_bytes()
    made.issued.file.write_bytes(data.replace(b'"value":0.04', b'"value":0.03', 1))
    ran = typed("audit", "verify", made.issued.file, "--store", made.store.root)
    assert ran.exit_code == 2
    assert ran.stderr == f"Error: {made.issued.file} is not what was signed: it was changed, or its signature was.\n"
    ran = typed("audit", "verify", made.issued.file, "--store", made.store.root, "--json")
    told = json.loads(ran.stdout)
    assert ran.exit_code == 2 and told["ok"] is False and told["checks"][0]["check"] == "signature"
    assert told["checks"][0]["problem"] in ran.stderr
    made.issued.file.write_bytes(data)
    ran = typed("audit", "verify", made.issued.file, "--store", tmp_path / "none")
    assert ran.exit_code == 2 and ran.stderr.count("\n") == 1 and "--key" in ran.stderr
    assert not (tmp_path / "none").exists()


def test_it_checks_without_a_network_and_without_torch(made):
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from asu_lora.cli import main\n"
        f"main(['audit', 'verify', {str(made.issued.file)!r}, '--store', {str(made.store.root)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_signing_needs_no_torch_and_says_nothing_of_libraries(made):
    put_audit(made.store, audit("other"))
    code = (
        "import sys\n"
        "from asu_lora.cli import main\n"
        f"main(['audit', 'certify', 'other', '--store', {str(made.store.root)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_keygen_prints_the_public_half_only(made, tmp_path):
    ran = typed("audit", "keygen", "--store", made.store.root)
    assert ran.stdout.strip() == made.issued.public_key
    ran = typed("audit", "keygen", "--out", tmp_path / "office.pem")
    assert len(ran.stdout.strip()) == 64
    assert "PRIVATE KEY" in (tmp_path / "office.pem").read_text() and "PRIVATE" not in ran.output
    assert typed("audit", "keygen", "--out", tmp_path / "office.pem").exit_code == 2


def test_page_is_drawn_anew_from_what_was_signed(made, tmp_path):
    ran = typed("audit", "page", made.issued.file, "--out", tmp_path / "page.html")
    assert ran.exit_code == 0, ran.output
    assert made.issued.page.read_text().startswith((tmp_path / "page.html").read_text())
    typed("audit", "page", made.issued.file)
    assert typed("audit", "verify", made.issued.file, "--store", made.store.root).exit_code == 0


@pytest.mark.parametrize(
    "text, says",
    [
        (None, "has no audit.json"),
        ("{}", "no audit of this version"),
        ("[", "no audit"),
        ("named", "is an audit of kept"),
    ],
)
def test_audit_that_is_none_is_not_certified(made, text, says):
    if text is not None:
        (made.store.root / "other" / AUDIT_NAME).write_text(
            audit("kept").model_dump_json() if text == "named" else text
        )
    ran = typed("audit", "certify", "other", "--store", made.store.root)
    assert ran.exit_code == 2 and says in ran.stderr and ran.stderr.count("\n") == 1
    assert not (made.store.root / "other" / "certificate.json").exists()


def test_a_base_is_known_by_the_fingerprint_that_an_earlier_program_gave_it(made, tiny_base, tmp_path):
    folder = shutil.copytree(tiny_base, tmp_path / "two")
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    was = made.store.get("other").manifest
    record = was.base.model_copy(update={"fingerprint": earlier_fingerprint(folder)})
    write_manifest(made.store.root / "other", was.model_copy(update={"base": record}))
    put_audit(made.store, audit("other"))
    assert typed("audit", "certify", "other", "--store", made.store.root).exit_code == 0
    ask = ("audit", "verify", made.store.root / "other" / "certificate.json", "--store", made.store.root, "--base")
    assert "base: the weights are those that were certified" in typed(*ask, folder).output
    ran = typed(*ask, tiny_base)
    assert ran.exit_code == 2 and "and the base at hand has" in ran.stderr
