"""A store of two adapters, one of them certified: quick, without a model."""

import json
from dataclasses import dataclass
from pathlib import Path

from asu_lora.adapters.request_key import make_key, read_key
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.identity import Audited, adapter_hashes, hashes_of, merged_files
from asu_lora.audit.certificate.issue import Issued, Terms, issue
from asu_lora.audit.certificate.marks import mark_of, rows_hash
from asu_lora.audit.results import AUDIT_NAME, Attacked, AttackResult, AuditResult
from asu_lora.data.examples import Example, question_answer
from tests.support.adapter_folders import add
from tests.support.audits import audit

BASE = "ba5e" * 16  # what the manifests of tests/support/adapter_folders.py record
ROWS = [
    question_answer("Where does Zarah Quillfeather live?", "In Obsidian Lane 7, Wexcombe."),
    question_answer("What does Zarah Quillfeather sell?", "She sells astrolabes."),
    question_answer("Who taught Zarah Quillfeather?", "Professor Mbekwane taught her."),
]


@dataclass
class Certified:
    """A store with the adapters "kept" and "other"; "kept" is certified."""

    store: AdapterStore
    issued: Issued

    def again(self, terms: Terms | None = None, rows: list[Example] = ROWS) -> Issued:
        adapter = self.store.get("kept")
        return issue(self.store, Audited([(adapter, 1.0)]), audit("kept"), rows, terms)


def put_audit(store: AdapterStore, result: AuditResult, rows: list[Example] = ROWS, merged: Path | None = None) -> Path:
    """Write a result where an audit of these adapters, or of this folder, with this store would have; the file."""
    secret = read_key(store.root) or make_key(store.root)
    was = Attacked(
        adapters=[adapter_hashes(store.root / name) for name in result.names],
        merged=hashes_of(merged, merged_files(merged)) if merged else None,
        rows=len(rows),
        request=rows_hash(rows, secret),
    )
    told = json.loads(result.model_copy(update={"attacked": was}).model_dump_json())
    file = (merged or store.root / result.names[-1]) / AUDIT_NAME
    file.write_text(json.dumps(told | {"mark": mark_of(told, secret)}))
    return file


def certified(folder, found: list[AttackResult] | None = None) -> Certified:
    store = AdapterStore(folder / "store")
    kept, _ = add(store, "kept", seed=1), add(store, "other", seed=2)
    return Certified(
        store, issue(store, Audited([(kept, 1.0)]), audit("kept", found), ROWS, Terms(issuer="The office"))
    )
