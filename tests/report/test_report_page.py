"""One page over a store: what is in it, what is wrong with it, and how it went; read in a real browser."""

import itertools
import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from asu_lora.adapters import stored_adapter
from asu_lora.adapters.manifest import MethodRecord, StackedOn, fingerprint_of, write_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.archive import ARCHIVE
from asu_lora.audit.certificate.identity import Audited
from asu_lora.audit.certificate.issue import issue
from asu_lora.audit.results import AttackResult
from asu_lora.cli import main
from asu_lora.report.contents import gather
from asu_lora.report.page import attention, render_report, write_report
from asu_lora.report.queue import Queue, Reading, Served
from asu_lora.report.timeline import audited, brought_back, days, kept_beside
from asu_lora.requests.deployment import Artefact
from tests.support.adapter_folders import add, files_of, folder_in_memory, manifest_for, on, truncate, write_lora
from tests.support.audits import audit, reading
from tests.support.browser import FAINT, chromium, opened
from tests.support.certificates import ROWS, certified


class Ticket:
    """A request as the ledger gives it."""

    def __init__(self, id, state, due, **more):
        fields = dict(received="2026-11-01T00:00:00Z", owner=None, basis=None, note=None, rows=3, adapter=None)
        self.__dict__.update(fields | dict(sentence=None) | more | dict(id=id, state=state, due=due))

    def overdue(self, now=None):
        return self.state not in ("deployed", "withdrawn") and self.due < "2026-11-28"


QUEUE = Queue(
    [
        Ticket("T-9", "queued", "2026-11-20T00:00:00Z", owner="Ada", note="by letter"),
        Ticket("T-2", "failed", "2026-12-20T00:00:00Z", sentence="The file has no rows."),
        Ticket("T-10", "audited", "2026-12-01T00:00:00Z", adapter="kept", rows=20),
        Ticket("T-1", "deployed", "2026-11-05T00:00:00Z", adapter="gone"),
    ],
    [
        Served([Artefact("first", "adapter", "aa" * 32, ["T-1"])], "2026-11-02T00:00:00Z", None),
        Served([Artefact("sum", "adapter", "bb" * 32, ["T-1", "T-10"])], "2026-11-12T00:00:00Z", "the clinic's server"),
    ],
    [Reading("T-10", "2026-11-12T00:00:00Z", 0.5), Reading("T-2", "2026-11-13T00:00:00Z")],
)


@pytest.fixture(scope="module")
def made():
    """Two adapters and their sum, one more that stands on another, and a broken one; two are certified."""
    with folder_in_memory() as folder:
        made = certified(folder)
        sources = [on(made.store, name) for name in ("kept", "other")]
        with made.store.stage("sum") as staged:
            write_lora(staged, seed=7)
            details = {"sources": [source.model_dump() for source in sources]}
            write_manifest(staged, manifest_for("sum", method=MethodRecord(objective="combined", details=details)))
        add(made.store, "above", seed=4, on_top_of=[StackedOn(name="lost", fingerprint="0" * 64)])
        add(made.store, "broken", seed=5)
        truncate(made.store.root / "broken" / "adapter_model.safetensors")
        result = audit("other", [AttackResult(attack="direct", kind="asking", readings=[reading(0.4)])])
        issue(made.store, Audited([(made.store.get("other"), 1.0)]), result, ROWS)
        yield made


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    out.write_text(render_report(gather(made.store), QUEUE, lambda name: f"{name}/certificate.html"))
    return out


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


def rows_of(seen, table: int) -> list[str]:
    return seen.page.evaluate(
        "n => [...document.querySelectorAll('table.sortable')[n].tBodies[0].rows]"
        ".filter(row => row.checkVisibility()).map(row => row.cells[0].textContent)",
        table,
    )


def test_contents_say_what_is_in_what_and_what_is_gone(made):
    found = {known.name: known for known in gather(made.store).adapters}
    assert list(found) == ["above", "broken", "kept", "other", "sum"]
    assert [entry.name for entry in found["sum"].contents] == ["kept", "other"]
    assert found["kept"].contained_in == ["sum"] and found["sum"].contained_in == []
    assert found["above"].missing == ["lost"]
    assert found["broken"].adapter.broken
    assert found["kept"].certificate.certificate.serial == 1 and found["sum"].certificate is None


def test_what_waits_for_somebody_comes_first_and_most_urgent_first(made):
    told = list(attention(gather(made.store), QUEUE))
    assert [what for what, _, _ in told] == ["Overdue:", "Failed:", "Incomplete:", "Broken:", "Not certified:"]
    assert told[0][1] == "T-9, queued, was due 2026-11-20"
    assert told[-1][1] == "above, sum"


@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_is_fetched_nothing_is_complained_of_and_nothing_sticks_out(page, browser, width):
    with opened(browser, page, width) as seen:
        assert seen.fetched == [page.as_uri()]
        assert seen.said == []
        assert seen.width() <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_text_is_faint(page, browser, scheme):
    with opened(browser, page, color_scheme=scheme) as seen:
        assert seen.page.evaluate(FAINT) == []


def test_tables_sort_by_what_cells_mean(page, browser):
    with opened(browser, page) as seen:
        assert rows_of(seen, 0) == ["T-9", "T-2", "T-10", "T-1"]
        button = seen.page.get_by_role("button", name="Request", exact=True)
        button.click()
        assert rows_of(seen, 0) == ["T-1", "T-2", "T-9", "T-10"]
        button.click()
        assert rows_of(seen, 0) == ["T-10", "T-9", "T-2", "T-1"]
        assert (
            seen.page.get_by_role("columnheader", name="Request", exact=True).get_attribute("aria-sort") == "descending"
        )
        seen.page.get_by_role("button", name="Due").click()
        assert rows_of(seen, 0) == ["T-1", "T-9", "T-10", "T-2"]
        seen.page.get_by_role("button", name="Brought back").first.click()
        assert rows_of(seen, 0)[-2:] == ["T-2", "T-10"]
        seen.page.get_by_role("button", name="Brought back").last.click()
        assert rows_of(seen, 1)[-2:] == ["other", "kept"]


def test_tables_filter_by_words_and_by_state_and_say_how_many(page, browser):
    with opened(browser, page) as seen:
        bar = seen.page.locator("#find-requests")
        bar.get_by_label("Find").fill("letter ADA")
        assert rows_of(seen, 0) == ["T-9"]
        assert bar.get_by_role("status").inner_text() == "1 of 4"
        bar.get_by_label("Find").fill("")
        bar.get_by_label("Only").select_option("failed")
        assert rows_of(seen, 0) == ["T-2"]


def test_without_a_script_everything_is_there(page, browser):
    with opened(browser, page, java_script_enabled=False) as seen:
        assert seen.page.get_by_role("row").count() > 10
        assert seen.page.locator(".filter").first.is_hidden()
        assert seen.page.get_by_text("the clinic's server").is_visible()
        assert seen.page.get_by_text("not told", exact=True).is_visible()
        assert seen.page.get_by_text("kept at 1, other at 1").is_visible()


def test_headings_descend_by_one_and_links_lead_somewhere(page, browser):
    with opened(browser, page) as seen:
        levels = seen.page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
        dangling = seen.page.evaluate(
            "[...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.querySelector(a.hash)).length"
        )
        tables = seen.page.evaluate("[...document.querySelectorAll('table')].map(t => !!t.caption)")
    assert levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert dangling == 0 and all(tables)


def test_what_people_typed_is_text_never_markup(made, browser, tmp_path):
    evil = '<script>console.log("in")</script><img src="http://192.0.2.1/x">'
    queue = Queue([Ticket("T-1", "queued", "2026-12-01T00:00:00Z", note=evil, owner=evil)], [])
    (tmp_path / "page.html").write_text(render_report(gather(made.store), queue, lambda name: ""))
    with opened(browser, tmp_path / "page.html") as seen:
        assert seen.said == [] and len(seen.fetched) == 1
        assert seen.page.locator("img").count() == 0


def test_page_beside_or_in_the_store_links_to_the_certificates(made, browser, tmp_path):
    odd = AdapterStore(made.store.root.parent / "50%25 of #1? \udce9" / "store")
    shutil.copytree(made.store.root, odd.root, symlinks=True)
    shutil.copytree(odd.root / "kept", odd.root / "caf\udce9")  # a name in Latin-1
    for store, out in (
        (made.store, made.store.root / "report.html"),
        (made.store, made.store.root.parent / "elsewhere" / "page.html"),
        (odd, tmp_path / "page.html"),
    ):
        write_report(store, out)
        with opened(browser, out) as seen:
            seen.page.get_by_role("link", name="read it").first.click()
            assert seen.page.get_by_role("heading", level=1).inner_text() == "What kept still gives away"
        out.unlink()


def test_weights_without_a_manifest_are_read_once_however_many_certificates_there_are(tmp_path, monkeypatch):
    made = certified(tmp_path)
    made.again()
    write_lora(made.store.root / "plain")
    read = []
    monkeypatch.setattr(stored_adapter, "fingerprint_of", lambda path: read.append(path.name) or fingerprint_of(path))
    assert [known.name for known in gather(made.store).adapters] == ["kept", "other", "plain"]
    assert read == ["plain"]


def test_file_in_the_archive_that_is_no_certificate_is_told(made):
    bad = made.store.root / ARCHIVE / f"{99:08d}-{'0' * 16}.json"
    bad.write_text("{}")
    try:
        told = list(attention(gather(made.store), None))
        assert told[-1][0] == "Archive:" and "no certificate" in told[-1][1]
    finally:
        bad.unlink()


def test_no_word_of_the_request_is_on_the_page(page):
    text = page.read_text()
    assert "astrolabes" not in text and "Quillfeather" not in text


def test_curve_takes_the_newest_certificate_of_each_model(made):
    figure = brought_back(gather(made.store).certificates)
    # the second certificate, of another model, brought back 40 %; the first stays at 94 %
    assert "the strongest attack on any from 0.943 to 0.943" in figure
    assert "the mean of all from 0.943 to 0.67" in figure


def test_curve_of_the_queue_leaves_out_what_was_withdrawn():
    figure = audited(
        [
            Reading("a", "2026-11-01T00:00:00Z", 0.8),
            Reading("b", "2026-11-03T00:00:00Z", 0.2),
            Reading("a", "2026-11-05T00:00:00Z", withdrawn=True),
        ]
    )
    assert "the strongest attack on any from 0.8 to 0.2" in figure
    assert "the mean of all from 0.8 to 0.2" in figure
    assert audited([Reading("a", "2026-11-05T00:00:00Z", None)]) == ""


def test_the_curve_of_what_is_kept_is_over_the_requests_that_stand():
    figure = kept_beside(
        [
            Reading("a", "2026-11-01T00:00:00Z", 0.1, 0.99),
            Reading("b", "2026-11-03T00:00:00Z", 0.1, 0.97),
            Reading("b", "2026-11-04T00:00:00Z", 0.1, None),
            Reading("a", "2026-11-05T00:00:00Z", 0.1, 0.8),
            Reading("a", "2026-11-06T00:00:00Z", withdrawn=True),
            Reading("b", "2026-11-07T00:00:00Z", 0.1, 0.98),
        ]
    )
    assert "the least of any request from 0.99 to 0.98" in figure
    assert "the mean of all from 0.99 to 0.98" in figure
    assert kept_beside([Reading("a", "2026-11-05T00:00:00Z", 0.1)]) == ""


def test_days_are_days():
    assert days(["2026-11-28T00:00:00Z", "2026-11-29T12:00:00Z"]) == [0.0, 1.5]


def test_empty_store_and_missing_store_are_said(tmp_path, browser):
    runner = CliRunner()
    ran = runner.invoke(main, ["report", "--store", str(tmp_path / "none")])
    assert ran.exit_code == 2 and "There is no store" in ran.stderr
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    ran = runner.invoke(main, ["report", "--store", str(tmp_path / "empty"), "--out", str(tmp_path / "page.html")])
    assert ran.exit_code == 0, ran.output
    with opened(browser, tmp_path / "page.html") as seen:
        assert seen.page.get_by_text("The store is empty").is_visible()


def test_drawing_the_page_changes_nothing_in_the_store(made, tmp_path):
    before = files_of(made.store.root)
    ran = CliRunner().invoke(main, ["report", "--store", str(made.store.root), "--out", str(tmp_path / "page.html")])
    assert ran.exit_code == 0, ran.output
    assert files_of(made.store.root) == before


def test_a_page_replaces_a_page_and_no_other_file(tmp_path):
    request, words = tmp_path / "request.jsonl", ["report", "--store", str(tmp_path), "--out"]
    request.write_text('{"question": "Who?", "answer": "Ada."}')
    refused = CliRunner().invoke(main, [*words, str(request)])
    assert refused.exit_code == 2 and "not overwritten" in refused.stderr and "Ada." in request.read_text()
    assert [CliRunner().invoke(main, [*words, str(tmp_path / "page.html")]).exit_code for _ in "12"] == [0, 0]


def test_expired_and_replaced_certificates_are_told(made):
    known = gather(made.store).certificates[0]
    assert known.state == "valid"
    late = datetime.now(UTC) + timedelta(days=200)
    assert known.certificate.expired(late)
    assert json.loads((made.store.root / "kept" / "certificate.json").read_text())["certificate"]["serial"] == 1
