"""A store of two adapters, one of them certified: quick, without a model."""

from dataclasses import dataclass

from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.identity import Audited
from asu_lora.audit.certificate.issue import Issued, Terms, issue
from asu_lora.audit.results import AttackResult
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


def certified(folder, found: list[AttackResult] | None = None) -> Certified:
    store = AdapterStore(folder / "store")
    kept, _ = add(store, "kept", seed=1), add(store, "other", seed=2)
    return Certified(
        store, issue(store, Audited([(kept, 1.0)]), audit("kept", found), ROWS, Terms(issuer="The office"))
    )
