"""An audit as a whole: the same under a seed, resumed attack by attack, without text, and kept beside the adapter."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.attacks.in_context import InContext
from asu_lora.audit.certificate.certify import certify_merged
from asu_lora.audit.registry import ATTACKS, chosen
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.results import AuditResult
from asu_lora.audit.row_attack import MOST_NEW
from asu_lora.audit.run import audit, open_models
from asu_lora.audit.save import save_audit
from asu_lora.audit.session import Session
from asu_lora.audit.settings import AuditSettings, seconds
from asu_lora.errors import AsuLoraError, DataError, SettingError
from asu_lora.models.decoder import base_model
from asu_lora.models.loading import load_base
from tests.support.audits import figures
from tests.support.listener import Listener
from tests.support.lora_folders import give_manifest, save_lora
from tests.support.planted import FORGET, KEPT, STRANGERS
from tests.support.tiny_run import rows

QUICK = AuditSettings(("direct", "prefix", "sampling", "relearn"), "quick", seed=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, facts in (("forget", FORGET), ("keep", KEPT), ("floor", STRANGERS)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows(facts))))
    return folder


@pytest.fixture(scope="module")
def store(taught_base, tmp_path_factory):
    store = tmp_path_factory.mktemp("audited") / "store"
    give_manifest(save_lora(taught_base, store / "anna", 1, size=0.08), taught_base)
    return store


@pytest.fixture(scope="module")
def asked(files, store, taught_base):
    return AuditRequest(
        forget=files / "forget.jsonl",
        retain=files / "keep.jsonl",
        floor=files / "floor.jsonl",
        base=str(taught_base),
        adapters=("anna",),
        store=store,
        precision="fp32",
        device="cpu",
    )


@pytest.fixture(scope="module")
def found(asked) -> AuditResult:
    return audit(asked, QUICK)


def test_the_same_seed_finds_the_same(asked, found):
    assert figures(audit(asked, QUICK)) == figures(found)
    other = audit(asked, replace(QUICK, attacks=("sampling",), seed=4))
    assert other.attacks[0].curves != found.attacks[2].curves


def test_a_base_in_memory_is_used_as_it_is_and_plain_again_afterwards(asked, found, monkeypatch):
    loaded = load_base(asked.base, "fp32", "cpu")
    names = [name for name, _ in loaded.model.named_modules()]
    monkeypatch.setattr("asu_lora.audit.run.load_base", lambda *_, **__: pytest.fail("a base was loaded"))
    assert figures(audit(asked, QUICK, loaded=loaded)) == figures(found)
    assert [name for name, _ in loaded.model.named_modules()] == names


def test_neighbours_that_would_leave_an_answer_no_room_stay_out(asked):
    with open_models(asked) as models:
        session = Session(asked.read(), models, QUICK)
        view = session.view("candidate")
        wide = InContext().prompts(session, view, session.rows)
        config = base_model(view.model).config
        config.max_position_embeddings = min(len(prompt.ids) for prompt in wide) - 1 + MOST_NEW
        narrow = InContext().prompts(session, view, session.rows)
    for before, after in zip(wide, narrow, strict=True):
        assert len(after.ids) + MOST_NEW <= config.max_position_embeddings
        assert len(after.ids) < len(before.ids) and after.ids[-5:] == before.ids[-5:]


def test_an_interrupted_audit_goes_on_with_the_attack_it_had_begun(asked, found):
    with pytest.raises(KeyboardInterrupt):
        audit(asked, QUICK, Listener(stop_stage="sampling"))
    listener = Listener()
    assert figures(audit(asked, QUICK, listener)) == figures(found)
    begun = {stage.partition(":")[0] for stage in listener.stages}
    assert "sampling" in begun and "direct" not in begun
    assert not list(Path(asked.store).glob(".audits/*"))


def test_an_interrupted_audit_of_merged_weights_goes_on_too_and_leaves_nothing_behind(asked, tiny_base, tmp_path):
    merged = Path(shutil.copytree(tiny_base, tmp_path / "merged"))
    before = {path.name for path in merged.iterdir()}
    request = replace(asked, adapters=(), merged=merged)
    settings = AuditSettings(("direct", "prefix"), "quick")
    whole = audit(request, settings)
    with pytest.raises(KeyboardInterrupt):
        audit(request, settings, Listener(stop_stage="prefix"))
    listener = Listener()
    assert figures(audit(request, settings, listener)) == figures(whole)
    assert not any(stage.startswith("direct") for stage in listener.stages)
    assert {path.name for path in merged.iterdir()} == before
    other = replace(request, base=str(merged))  # another ceiling finds something else: nothing is taken over
    with pytest.raises(KeyboardInterrupt):
        audit(request, settings, Listener(stop_stage="prefix"))
    assert audit(other, settings).attacks[0].readings[0].ceiling != whole.attacks[0].readings[0].ceiling
    save_audit(whole, request)
    store = AdapterStore(shutil.copytree(asked.store, tmp_path / "store"))  # a key in PEM may hold any word
    made = certify_merged(store, merged, [("anna", 1.0)], asked.read().forget).certificate
    assert made.done.merged == whole.attacked.merged and len(made.asked.commitments) == whole.attacked.rows


def test_more_samples_than_the_depth_s_tell_of_more_tries(asked):
    [found] = audit(asked, AuditSettings(("sampling",), "quick", samples=64)).attacks
    assert found.curves["k"] == [1, 2, 4, 8, 16, 32, 64] and found.settings["samples"] == 64
    with pytest.raises(SettingError, match="1 to 1024"):
        AuditSettings(samples=0)


def test_no_word_of_the_request_is_in_any_written_file(asked, found):
    with pytest.raises(KeyboardInterrupt):
        audit(asked, QUICK, Listener(stop_stage="relearn"))
    save_audit(found, asked)
    written = [path for path in Path(asked.store).rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert any(path.parent.parent.name == ".audits" for path in written) and any(
        p.name == "audit.json" for p in written
    )
    words = {word.lower() for name, does in (*FORGET, *KEPT, *STRANGERS) for word in (*name.split(), *does.split())}
    for path in written:
        if path.name in ("adapter_config.json", "README.md"):  # PEFT's, of before
            continue
        # A hash holds "ada" now and then, so words are runs of letters that no digit touches.
        told = set(re.findall(r"(?<![a-z0-9])[a-z]+(?![a-z0-9])", path.read_bytes().decode("utf-8", "ignore").lower()))
        assert not words & told - {"anna", "rows"}, path  # the adapter's own name; a field of results


def test_the_result_lies_beside_the_adapter_which_still_verifies(asked, found):
    path = save_audit(found, asked)
    assert path == Path(asked.store) / "anna" / "audit.json"
    assert AuditResult.model_validate_json(path.read_text()) == found
    report = AdapterStore(asked.store).verify("anna")
    assert report.ok and not any(check.note and "audit.json" in check.note for check in report.checks)
    path.write_text(path.read_text().replace("1", "2", 1))
    assert not AdapterStore(asked.store).verify("anna").ok
    save_audit(found, asked)
    assert AdapterStore(asked.store).verify("anna").ok


def test_records_hold_what_was_asked_and_answered_where_it_is_wanted(asked, tmp_path):
    audit(replace(asked, records=tmp_path / "records"), AuditSettings(("prefix",), "quick"))
    [path] = (tmp_path / "records").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name == "prefix.jsonl" and {line["model"] for line in lines} == {"candidate", "ceiling", "floor"}
    assert lines[0]["question"] == "What does Anna Birk do?" and "answer" in lines[0]


def test_what_was_not_tried_is_named_with_the_reason(asked, found):
    reasons = {untried.attack: untried.reason for untried in found.untried}
    assert reasons["insisting"] == "Not chosen."
    assert {attack.attack for attack in found.attacks} | reasons.keys() == set(ATTACKS)
    spent = audit(asked, replace(QUICK, budget_s=1e-9, seed=9))
    assert not spent.attacks and spent.worst() is None
    assert {u.reason for u in spent.untried} == {"The budget of 0 seconds was spent before it.", "Not chosen."}
    without = audit(replace(asked, floor=None), AuditSettings(("membership", "trace", "translations"), "quick"))
    assert not without.attacks and any("--floor" in untried.reason for untried in without.untried)


def test_without_rows_that_were_never_seen_the_floor_says_what_it_is(asked):
    result = audit(replace(asked, floor=None), AuditSettings(("direct",), "quick"))
    [attack] = result.attacks
    facts, _, strength = attack.readings
    assert facts.floor is not None and facts.floor.value < 0.2 and strength.floor is None
    assert any("upper bound" in note for note in attack.notes)


@pytest.mark.parametrize(("depth", "said"), [("quick", "never-seen rows can't be asked"), ("full", "hardly more than")])
def test_questions_that_only_the_request_has_are_judged_all_the_same(asked, tmp_path, depth, said):
    """Strangers have no translation, and the base answers none: without both, a leak in it would go unjudged."""
    other = rows(KEPT)[0]["question"]  # which the base answers with another fact
    rows_ = [row | {"question_de": other} for row in rows(FORGET)]
    (tmp_path / "forget.jsonl").write_text("\n".join(map(json.dumps, rows_)))
    [found] = audit(replace(asked, forget=tmp_path / "forget.jsonl"), AuditSettings(("translations",), depth)).attacks
    facts = found.readings[0]
    assert facts.floor is not None and facts.ceiling is not None and facts.ceiling.value > 0.9
    span = facts.ceiling.value - facts.floor.value
    assert facts.recovered == max(0.0, (facts.candidate.value - facts.floor.value) / span)
    assert any(said in note for note in found.notes)


def test_kinds_stand_for_their_attacks_in_the_registry_s_order():
    assert [attack.name for attack in chosen(("sampling", "weights"), "quick")][:2] == ["sampling", "relearn"]
    assert [attack.name for attack in chosen(("In-Context", "TRACE"), "quick")] == ["in_context", "trace"]
    assert [attack.name for attack in chosen(None, "full")] == list(ATTACKS)
    for wrong in (("greedy",), ()):
        with pytest.raises(SettingError, match="There is no attack"):
            chosen(wrong, "full")


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5H", 5400)])
def test_budgets_as_people_type_them(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "m", "-1m", "0", "nan", "1d", "inf"])
def test_budgets_that_are_no_time(text):
    with pytest.raises(SettingError):
        seconds(text)


def test_contradictions_and_odd_rows_end_in_one_sentence(asked, files, tmp_path):
    everything = tmp_path / "copied.jsonl"
    everything.write_text(json.dumps({"question": "Does Anna keep bees?", "answer": "Anna keeps bees."}))
    cases = [
        (dict(merged="m"), SettingError, "not both"),
        (dict(floor=files / "forget.jsonl"), DataError, "never seen"),
        (dict(retain=files / "forget.jsonl"), DataError, "kept"),
        (dict(forget=everything), DataError, "has a fact of its own"),
        (dict(forget=[]), DataError, "nothing to attack"),
        (dict(paraphrases=files / "keep.jsonl"), DataError, "paraphrased_question"),
        (dict(adapters=("nobody",)), AsuLoraError, "no adapter nobody"),
    ]
    for changes, kind, says in cases:
        with pytest.raises(kind, match=says) as caught:
            audit(replace(asked, **changes), AuditSettings(("direct",), "quick"))
        assert "\n" not in str(caught.value)
