"""The store as one HTML file: no network, and a script only for sorting and filtering."""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import quote

from asu_lora.adapters.model_card import figure, figure_rows, public_base_name
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.record import PAGE_NAME
from asu_lora.audit.certificate.wording import percent
from asu_lora.errors import StoreError
from asu_lora.files import disk_errors, write_atomic
from asu_lora.report.contents import KnownAdapter, StoreContents, gather
from asu_lora.report.queue import Queue, read_queue
from asu_lora.report.timeline import figures
from asu_lora.reporting.html.pages import environment, stamp
from asu_lora.requests.ledger.states import WITHDRAWN
from asu_lora.version import __version__

HERE = Path(__file__).parent
OWNER_ALONE = 0o600  # as the ledger, whose names and notes the page then holds

# (adapter's name) -> address of its certificate's page, "" where there is none
Link = Callable[[str], str]


def write_report(store: AdapterStore, out: Path, progress: Callable[[int], None] = lambda count: None) -> Path:
    """Draw the page of a store into a file.

    Args:
        progress: called with 1 for each certificate that was read.

    Raises:
        StoreError: the store can't be read, the disk refuses, or another file than a page lies there.
        LedgerError: there is a ledger that can't be read.
    """
    _refuse_other_files(out)
    contents = gather(store, progress)
    below = _way(out.resolve().parent, store.root.resolve())
    queue = read_queue(store)
    text = render_report(contents, queue, lambda name: f"{below}{address(name)}/{PAGE_NAME}")
    with disk_errors(out.parent, "folder"):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, text, 0o666 if queue is None else OWNER_ALONE)
    return out


def _refuse_other_files(out: Path) -> None:
    """A page is drawn over an older one, and over nothing else: a typing error would cost a request.

    Raises:
        StoreError: naming the file.
    """
    if not out.is_file():
        return
    with disk_errors(out, "file"), open(out, "rb") as file:
        begins = file.read(64).lstrip().lower()
    if begins and not begins.startswith(b"<!doctype html"):
        raise StoreError(f"{out} is there already, is no page, and is not overwritten: name another file.")


def render_report(contents: StoreContents, queue: Queue | None, link: Link) -> str:
    """The page; ``link`` says where a certificate's page is, as seen from this one."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    body = f"\n{script}"  # as it stands between the tags
    text = _template().render(
        generator=f"asu-lora {__version__}, page {stamp(HERE)}",
        contents=contents,
        queue=queue,
        names={known.name for known in contents.adapters},
        certified=sum(
            known.certificate is not None and known.certificate.state == "valid" for known in contents.adapters
        ),
        attention=list(attention(contents, queue)),
        figures=figures(contents, queue),
        states=sorted({_state(known) for known in contents.adapters}),
        own_style=(HERE / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(body.encode()).digest()).decode(),
        anchor=anchor,
        facts=facts,
        from_to=from_to,
        percent=percent,
        figure=figure,
        figure_rows=figure_rows,
        link=lambda known: link(known.name) if (known.adapter.path / PAGE_NAME).is_file() else "",
    )
    return text.encode(errors="backslashreplace").decode()  # a folder's name need not be UTF-8


def attention(contents: StoreContents, queue: Queue | None) -> Iterator[tuple[str, str, str]]:
    """(what, text, anchor) of everything that waits for a person, the most urgent first."""
    for request in queue.requests if queue else ():
        if request.overdue():
            yield "Overdue:", f"{request.id}, {request.state}, was due {request.due[:10]}", "requests"
    for request in queue.requests if queue else ():
        if request.state == "failed":
            yield "Failed:", f"{request.id}: {request.sentence or 'no reason is written down'}", "requests"
        elif request.sentence and request.state != WITHDRAWN:
            yield "Not passed:", f"{request.id}: {request.sentence}", "requests"
    for known in contents.adapters:
        here = anchor(known.name)
        if known.adapter.broken:
            yield "Broken:", f"{known.name}: {known.adapter.state.removeprefix('broken: ')}", here
        if known.missing:
            yield "Incomplete:", f"{known.name} stands on {', '.join(known.missing)}, gone by now", here
        if known.certificate and known.certificate.state != "valid":
            yield "Certificate:", f"{known.name}: {known.certificate.state}", here
    without = [k.name for k in contents.adapters if not k.certificate and not k.adapter.broken]
    if without:
        more = f" and {len(without) - 5} more" if len(without) > 5 else ""
        yield "Not certified:", ", ".join(without[:5]) + more, "adapters"
    for problem in contents.problems:
        yield "Archive:", problem, ""


def facts(known: KnownAdapter) -> list[tuple[str, str]]:
    """What the page tells of an adapter besides its figures."""
    manifest, size = known.adapter.manifest, _size(known.adapter.size_bytes)
    base = public_base_name(known.adapter.base_id or "") if known.adapter.base_id else "not recorded"
    found = [("Base", base), ("Size", size)]
    if manifest:
        method, request = manifest.method, manifest.request
        how = [method.objective, f"retain loss {method.retain_loss}" if method.retain_loss else ""]
        how.append(f"tau {method.tau:g}" if method.tau is not None else "")
        tokens = f", {request.forget_tokens} answer tokens" if request.forget_tokens is not None else ""
        found = [
            ("Made", f"{manifest.created[:16].replace('T', ' ')} by asu-lora {manifest.program_version}"),
            ("Base", f"{base}, {manifest.base.precision}"),
            ("Method", ", ".join(filter(None, how))),
            ("Request", f"{request.forget_rows} rows{tokens}; {request.retain_rows} rows kept"),
            ("Size", size),
        ]
        if manifest.on_top_of:
            found.append(("Stands on", ", ".join(f"{b.name} at {b.weight:g}" for b in manifest.on_top_of)))
    if known.missing:
        found.append(("Gone beneath it", ", ".join(known.missing)))
    if known.contents:
        found.append(("Contains", ", ".join(f"{entry.name} at {entry.weight:g}" for entry in known.contents)))
    if known.contained_in:
        found.append(("Contained in", ", ".join(known.contained_in)))
    return found


def from_to(pair: tuple[float | None, float | None]) -> str:
    """A probability before and after, as the table shows it."""
    before, after = pair
    if after is None:
        return ""
    return f"{percent(before)} → {percent(after)}" if before is not None else percent(after)


def anchor(name: str) -> str:
    """Where an adapter stands on the page."""
    return f"adapter-{name}"


def address(path: str) -> str:
    """A path as it stands in a link."""
    return quote(os.fsencode(path))


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _state(known: KnownAdapter) -> str:
    if known.certificate:
        return known.certificate.state
    return "broken" if known.adapter.broken else "none"


def _way(start: Path, root: Path) -> str:
    """The relative address of the store's folder as seen from the page's; a page elsewhere links to none."""
    try:
        way = address(Path(os.path.relpath(root, start)).as_posix())
    except ValueError:  # another drive
        way = root.as_uri()
    return "" if way == "." else re.sub(r"/?$", "/", way)


@cache
def _template():
    return environment(HERE).get_template("report.html.jinja")
