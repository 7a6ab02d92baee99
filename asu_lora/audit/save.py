"""Where an audit is kept: ``audit.json`` in the folder of what was audited, recorded in its manifest."""

import hashlib
from pathlib import Path

from asu_lora.adapters.adapter_spec import parse_adapter
from asu_lora.adapters.journal import Journal
from asu_lora.adapters.model_card import restate
from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.stored_adapter import look_at
from asu_lora.audit.on_file import why_apart
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.results import APART_NAME, AUDIT_NAME, AuditResult
from asu_lora.files import disk_errors, write_atomic


def save_audit(
    result: AuditResult, request: AuditRequest, out: str | Path | None = None, *, replace: bool = False
) -> Path:
    """Write an audit's result, which holds no text of the request.

    Args:
        out: a file, instead of ``audit.json`` in the audited folder (of a stack, the last adapter's).
        replace: whether it may take the place of a wider audit; else it is kept apart, see :mod:`.on_file`.

    Returns:
        The file.

    Raises:
        StoreError: the disk refuses, or there is no folder to keep it in.
    """
    text = result.model_dump_json(indent=2) + "\n"
    if out is not None:
        return _write(Path(out), text)
    file = APART_NAME if why_apart(result, request, replace=replace) else AUDIT_NAME
    if request.adapters:
        name, _ = parse_adapter(request.adapters[-1])
        store = AdapterStore(request.store)
        if name in store.names():
            return _into_store(store, name, file, text)
        return _write(store.resolve(name) / file, text)
    return _write(Path(request.merged or AUDIT_NAME) / AUDIT_NAME if request.merged else Path(AUDIT_NAME), text)


def _write(path: Path, text: str) -> Path:
    with disk_errors(path.parent, "folder"):
        write_atomic(path, text)
    return path


def _into_store(store: AdapterStore, name: str, file: str, text: str) -> Path:
    """The file and the manifest that records it, both or neither."""
    with disk_errors(store.root), store.staging.lock():
        adapter = look_at(store.root / name)
        journal = Journal(store.root)
        journal.write(f"{name}/{file}", text)
        if adapter.manifest is not None:
            digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
            files = adapter.manifest.files | {file: digest}
            written = restate(adapter.path, adapter.manifest.model_copy(update={"files": files}))
            for other, content in written.items():
                journal.write(f"{name}/{other}", content)
        journal.commit()
    return store.root / name / file
