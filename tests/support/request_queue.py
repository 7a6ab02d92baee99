"""A store with requests in it, one fact each, and runs over it."""

import json
from pathlib import Path

from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit
from asu_lora.audit.save import save_audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.progress import Progress
from asu_lora.requests.intake import Details, Files, add, hand_in_again
from asu_lora.requests.key import find_key
from asu_lora.requests.ledger.ledger import open_ledger
from asu_lora.requests.runner.run import Listener, run
from asu_lora.requests.runner.settings import Places, RunSettings
from asu_lora.requests.runner.workshop import Workshop
from asu_lora.requests.text_vault import TextVault
from tests.support.tiny_run import FACTS, rows, tiny_settings

QUICK = {"epochs": 1, "batch_size": 2}


class Queue:
    """A store with requests in it, one fact each, and runs over it."""

    def __init__(self, root: Path, base: Path):
        self.root, self.base = root, str(base)
        self.store = AdapterStore(root / "store")
        self.ledger = open_ledger(self.store.root, create=True, actor="tester")

    def add(self, *names: str, due: str = "2999-01-01T00:00:00Z") -> None:
        for name in names:
            number = len(self.ledger.requests())
            for file, facts in ((f"{name}.jsonl", FACTS[number % 10 : number % 10 + 1]), ("keep.jsonl", FACTS[-2:])):
                (self.root / file).write_text("\n".join(map(json.dumps, rows(facts))))
            files = Files(str(self.root / f"{name}.jsonl"), str(self.root / "keep.jsonl"))
            add(self.ledger, TextVault(find_key().secret), name, files, Details(due), store=self.store)
            (self.root / f"{name}.jsonl").unlink()
            (self.root / "keep.jsonl").unlink()

    def shop(self, audit=None, **settings) -> Workshop:
        config = tiny_settings(**(QUICK | settings.pop("config", {})))
        places = Places(self.store.root, actor="runner", results=settings.pop("results", None))
        settings.setdefault("audit", "launch" not in settings)
        return Workshop.open(places, RunSettings(self.base, config, **settings), audit=audit)

    def run(self, audit=None, listener=None, **settings):
        return run(self.shop(audit, **settings), listener=listener)

    def states(self) -> dict[str, str]:
        return {request.id: request.state for request in self.ledger.requests()}

    def events(self, name: str) -> list[str]:
        return [line.event for line in self.ledger.history(name)]


class Interrupting(Listener):
    """Ctrl-C while a request is trained."""

    def __init__(self, stage: str):
        self.stage = stage

    def progress(self):
        class Stopping(Progress):
            def stage(inner, name, total=None):
                if name == self.stage:
                    raise KeyboardInterrupt

        return Stopping()


def counting_audit(seen):
    def audit(task):
        seen.append(task.adapters)
        assert task.request.forget
        return {"worst": 0.25}

    return audit


def asked_directly(over=lambda stack: False, depth="quick"):
    """A real audit of one attack, which is said to bring too much back of some stacks; the last of one is audited."""

    def audit_one(task):
        asked = AuditRequest(
            forget=list(task.request.forget),
            base=task.base.source.name,
            adapters=task.adapters,
            store=task.store.root,
            precision="fp32",
            device="cpu",
        )
        save_audit(audit(asked, AuditSettings(("direct",), depth), loaded=task.base), asked, replace=True)
        return {"worst": 0.2, "depth": depth} | ({"over": "Too much."} if over(task.adapters) else {})

    return audit_one


def finds(**worst):
    """An audit that finds so much of each request; 0 of the others."""

    def audit(task):
        found = worst.get(task.adapters[-1], 0.0)
        over = {} if task.limit is None or found <= task.limit else {"over": f"{found:.0%} came back."}
        return {"worst": found} | over

    return audit


def retry(queue: Queue, name: str) -> None:
    """Hand a failed request in again, as it is."""
    hand_in_again(queue.ledger, TextVault(find_key().secret), name)
