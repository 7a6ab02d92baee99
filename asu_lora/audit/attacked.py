"""What an audit attacked, by hashes, so that a certificate of it is of this and of no other."""

import json
from collections.abc import Sequence
from pathlib import Path

from asu_lora.adapters.request_key import make_key, read_key
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.identity import adapter_hashes, hashes_of, merged_files
from asu_lora.audit.certificate.marks import mark_of, rows_hash
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.results import Attacked, AuditResult
from asu_lora.data.examples import Example
from asu_lora.errors import StoreError
from asu_lora.files import disk_errors
from asu_lora.models.adapter_stack import adapter_folders


def look_at_attacked(request: AuditRequest, forget: Sequence[Example]) -> Attacked:
    """What is about to be attacked; call it when the model is loaded.

    Raises:
        AdapterError: a file can't be read.
    """
    folders = adapter_folders(request.adapters, request.store)
    merged = Path(request.merged) if request.merged and Path(request.merged).is_dir() else None
    return Attacked(
        adapters=[adapter_hashes(folder) for folder, _ in folders],
        merged=hashes_of(merged, merged_files(merged)) if merged else None,
        rows=len(forget),
    )


def marked(result: AuditResult, was: Attacked, request: AuditRequest, forget: Sequence[Example]) -> AuditResult:
    """The result with what was attacked, and with the mark of the request's store where there is one to mark it."""
    secret = _secret(AdapterStore(request.store))
    if secret is None:
        return result.model_copy(update={"attacked": was})
    known = was.model_copy(update={"request": rows_hash(forget, secret)})
    result = result.model_copy(update={"attacked": known})
    return result.model_copy(update={"mark": mark_of(json.loads(result.model_dump_json()), secret)})


def _secret(store: AdapterStore) -> bytes | None:
    """The store's secret, made where it has none; None without a store, or without the right to write into it."""
    if not store.root.is_dir():
        return None
    if secret := read_key(store.root):
        return secret
    try:
        with disk_errors(store.root), store.staging.lock():
            return read_key(store.root) or make_key(store.root)
    except StoreError:
        return None
