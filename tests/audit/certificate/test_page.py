"""The certificate's page: opened in a real browser, on a phone, on paper, without colour, and in the dark."""

import itertools
import re

import pytest

from asu_lora.audit.certificate.figures import attack_curves
from asu_lora.audit.certificate.identity import Audited
from asu_lora.audit.certificate.issue import issue
from asu_lora.audit.certificate.page import render_page
from asu_lora.audit.certificate.signed import read_signed
from asu_lora.audit.certificate.wording import NARROW, outcome, percent, verdict
from asu_lora.audit.results import AttackResult, Reading, Untried
from tests.support.adapter_folders import folder_in_memory
from tests.support.audits import attacks, audit, rate, reading
from tests.support.browser import FAINT, chromium, opened
from tests.support.certificates import ROWS, certified


@pytest.fixture(scope="module")
def made():
    with folder_in_memory() as folder:
        yield certified(folder)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_is_fetched_nothing_is_complained_of_and_nothing_sticks_out(made, browser, width):
    with opened(browser, made.issued.page, width) as seen:
        assert seen.fetched == [made.issued.page.as_uri()]
        assert seen.said == []
        assert seen.width() <= width
        assert "brought back 94" in seen.page.inner_text(".verdict")


def test_every_figure_tells_its_numbers_to_those_who_cannot_see_it(made, browser):
    with opened(browser, made.issued.page) as seen:
        told = seen.page.eval_on_selector_all("[role=img]", "all => all.map(each => each.getAttribute('aria-label'))")
    first = next(text for text in told if text.startswith("direct"))
    assert first == "direct, facts said: this model 4 % (0 % to 12 %); never saw it (floor) 5 % (0 % to 13 %); " \
        "before (ceiling) 93 % (85 % to 100 %)"  # fmt: skip
    assert any(
        "relearn fifth, facts said over training steps: this model from 0.04 to 0.29, most 0.31 at 20" in t
        for t in told
    )


def test_headings_descend_by_one_and_every_table_has_a_caption_and_headers(made, browser):
    with opened(browser, made.issued.page) as seen:
        levels = seen.page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
        tables = seen.page.evaluate(
            "[...document.querySelectorAll('table')].map(t => [!!t.caption, t.querySelectorAll('tbody th').length,"
            " t.querySelectorAll('tbody tr').length])"
        )
        assert seen.page.evaluate("document.documentElement.lang") == "en"
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert tables and all(caption and heads == rows for caption, heads, rows in tables)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_text_is_faint(made, browser, scheme):
    with opened(browser, made.issued.page, color_scheme=scheme) as seen:
        assert seen.page.evaluate(FAINT) == []


def test_roles_are_told_apart_by_shape_alone(made):
    page = render_page(read_signed(made.issued.file))
    shapes = {role: set(re.findall(rf'class="{role}"><(path d="[^"]*"|rect|circle)', page)) for role in
              ("now", "before", "never", "control")}  # fmt: skip
    assert all(len(found) == 1 for found in shapes.values())
    assert len(set(map(frozenset, shapes.values()))) == 4


def test_printed_it_is_black_on_white_and_no_wider_than_the_paper(made, browser):
    with opened(browser, made.issued.page, 700, color_scheme="dark") as seen:
        seen.page.emulate_media(media="print")
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert seen.width() <= 700
        assert seen.page.pdf(format="A4").startswith(b"%PDF")


def test_names_and_notes_are_text_never_markup(made, browser):
    evil = '<img src="http://192.0.2.1/x" onerror="alert(1)"><script>alert(2)</script>'
    found = [
        AttackResult(
            attack="direct",
            kind="asking",
            readings=[reading(0.1, figure=evil, control=rate(0.1))],
            settings={evil: evil},
            notes=[evil],
            curves={"step": [0.0, 1.0], evil: [0.1, 0.2]},
        )
    ]
    result = audit("other", found, untried=[Untried(attack=evil, reason=evil)])
    issued = issue(made.store, Audited([(made.store.get("other"), 1.0)]), result, ROWS)
    with opened(browser, issued.page) as seen:
        assert seen.fetched == [issued.page.as_uri()] and seen.said == []
        assert seen.page.locator("img, script").count() == 0
        assert seen.page.get_by_text("onerror").count() >= 4


def test_same_certificate_is_always_the_same_page(made):
    signed = read_signed(made.issued.file)
    assert render_page(signed) == render_page(signed)
    assert made.issued.page.read_text().startswith(render_page(signed) + "<!-- ")


def test_finding_never_says_more_than_was_found():
    assert verdict([])[0] == "Nothing was tried."
    blind = [AttackResult(attack="min_k", kind="membership", readings=[reading(0.5, 0.5, 0.51, "auc")])]
    assert verdict(blind)[0] == "Nothing was tried on the knowledge."
    unclear = [AttackResult(attack="direct", kind="asking", readings=[reading(0.05, 0.05, 0.06)]), *blind]
    assert verdict(unclear)[0] == "No attack on the knowledge could tell."
    clean = [AttackResult(attack=name, kind="asking", readings=[reading(0.02)]) for name in ("direct", "prefix")]
    assert verdict(clean)[0] == "None of 2 attacks on the knowledge brought anything back."
    first, second = verdict(attacks())
    assert first.startswith("The strongest of 8 attacks on the knowledge brought back 94") and "difference" in second


def test_a_figure_of_few_rows_is_called_coarse():
    def asked(rows, ceiling=0.45, floor=0.05):
        found = Reading(
            figure="facts",
            candidate=rate(0.2).model_copy(update={"rows": rows}),
            ceiling=rate(ceiling),
            floor=rate(floor),
            recovered=0.4,
        )
        return verdict([AttackResult(attack="direct", kind="asking", readings=[found])])[1].replace(NARROW, " ")

    assert "That is a coarse figure: 6 rows were asked, and one that tells its facts is 42 %." in asked(6)
    assert "coarse" not in asked(40) and "coarse" in asked(40, ceiling=0.15)


def test_rows_that_are_told_apart_are_no_knowledge_brought_back(made):
    told = AttackResult(attack="membership", kind="membership", readings=[reading(1.0, 0.5, 1.0, "auc")])
    trace = AttackResult(attack="trace", kind="trace", readings=[Reading(figure="auc", candidate=rate(0.9))])
    direct = AttackResult(attack="direct", kind="asking", readings=[reading(0.05 + 0.88 * 0.2)])
    first, second = (text.replace(NARROW, " ") for text in verdict([direct, told, trace]))
    assert first == "The strongest of 1 attack on the knowledge brought back 20 % of what had to be forgotten."
    assert "AUC 1.00 (0.5 is a coin, before it was 1.00)" in second and "AUC 0.90 (0.5 is a coin)" in second
    result = audit("other", [direct, told, trace])
    page = render_page(read_signed(issue(made.store, Audited([(made.store.get("other"), 1.0)]), result, ROWS).file))
    assert page.count("told apart: 100") == 2  # beside its track, and in the table
    assert "brought back 100" not in page


def test_the_number_format_that_undid_it_is_named():
    undone = AttackResult(
        attack="precision", kind="precision", readings=[reading(0.9)], settings={"worst": "nf4_merged"}
    )
    assert "The strongest was: precision (nf4 merged)." in verdict([undone])[1]


def test_what_an_attack_found_is_said_in_the_words_of_its_kind():
    def said(kind, **figures):
        return outcome(AttackResult(attack="a", kind=kind, readings=[Reading(**figures)])).replace(NARROW, " ")

    asked = {"figure": "facts", "candidate": rate(0.4), "ceiling": rate(0.8), "floor": rate(0.0)}
    assert said("asking", **asked, recovered=0.5) == "brought back 50 %"
    assert said("asking", **asked) == "can't tell"
    assert said("membership", **asked, recovered=0.5) == "told apart: 50 % of before"
    assert said("trace", figure="auc", candidate=rate(0.4), ceiling=rate(0.1)) == "AUC 40 %"


def test_a_note_of_several_attacks_is_said_once(made):
    found = [
        AttackResult(attack=name, kind="asking", readings=[reading(0.1)], notes=["The floor is low.", f"Of {name}."])
        for name in ("direct", "prefix")
    ]
    result = audit("other", found)
    page = render_page(read_signed(issue(made.store, Audited([(made.store.get("other"), 1.0)]), result, ROWS).file))
    assert page.count("The floor is low.") == 1 and page.count("Of prefix.") == 1


def test_small_shares_are_not_rounded_to_nothing():
    told = [percent(share) for share in (0.0, 0.004, 0.02, 1.0, None)]
    assert [text.replace(NARROW, " ") for text in told] == ["0 %", "0.4 %", "2 %", "100 %", "–"]


def curves(**found):
    return attack_curves(AttackResult(attack="a", kind="weights", readings=[], curves=found))


def test_curves_that_cannot_be_drawn_are_left_out():
    assert curves() == curves(step=[0.0]) == curves(candidate=[0.1, 0.2]) == []
    assert curves(step=[0.0, 1.0]) == curves(step=[1.0, 1.0], candidate=[0.1, 0.2]) == []
    [(what, drawn)] = curves(step=[0.0, 1.0], candidate=[0.1, 0.2])
    assert what == "figures" and drawn.count("<polyline") == 1


def test_each_figure_has_a_plot_of_its_own_with_all_roles():
    found = curves(
        k=[1.0, 2.0], **{"candidate rows": [0.1, 0.2], "control rows": [0.1, 0.1], "candidate facts": [0, 1]}
    )
    assert [(what, drawn.count("<polyline")) for what, drawn in found] == [
        ("facts said", 1),
        ("rows that leak most of their facts", 2),
    ]
