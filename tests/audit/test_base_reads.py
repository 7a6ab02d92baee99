"""The audited model's states, read by the base: silenced facts are found inside, and those never known are not."""

from dataclasses import replace

import pytest
import torch

from asu_lora.audit.attacks.base_reads import BaseReads, fact_logprobs, found_by_itself, readable_layers
from asu_lora.audit.certificate.wording import beside, percent
from asu_lora.audit.registry import LEFT_OUT
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit, open_models
from asu_lora.audit.session import Session
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.examples import examples_from_rows
from asu_lora.data.token_classes import TokenClass, token_classes
from tests.support import planted
from tests.support.lora_folders import LINEAR, give_manifest, save_lora, stacked
from tests.support.tiny_run import rows, save_taught_base

LAYERS = 4
SETTINGS = AuditSettings(("base_reads",), "standard")


@pytest.fixture(scope="module")
def never(tmp_path_factory):
    """Knows the kept facts alone."""
    return save_taught_base(
        tmp_path_factory.mktemp("deep") / "never", 120, facts=planted.KEPT, num_hidden_layers=LAYERS
    )


@pytest.fixture(scope="module")
def deep(never):
    """The same model, which then learned the others too: each of the two can read the other's states."""
    return save_taught_base(never.parent / "deep", 120, start=never)


@pytest.fixture(scope="module")
def asked(deep):
    return AuditRequest(
        forget=examples_from_rows(rows(planted.FORGET), "facts"),
        retain=examples_from_rows(rows(planted.KEPT), "facts"),
        floor=examples_from_rows(rows(planted.STRANGERS), "facts"),
        base=str(deep),
        precision="fp32",
        device="cpu",
    )


@pytest.fixture(scope="module")
def between(asked):
    """A limit between what this tiny base finds by itself above its third layer and above its second: CPUs that sum in
    another order train another base, and no number stands between the two everywhere."""
    with open_models(asked) as models:
        session = Session(asked.read(), models, SETTINGS)
        shares = dict(found_by_itself(session, session.rows))
    assert shares[LAYERS - 1] < 0.8 * shares[LAYERS - 2]
    return (shares[LAYERS - 1] + shares[LAYERS - 2]) / 2


@pytest.fixture(autouse=True)
def limit(monkeypatch, between):
    monkeypatch.setattr("asu_lora.audit.attacks.base_reads.MOST_BY_ITSELF", between)


@pytest.fixture(scope="module")
def silenced(deep, asked, tmp_path_factory):
    """Every fact ruled out by the last layer alone."""
    folder = tmp_path_factory.mktemp("silenced") / "last"
    planted.save_planted(folder, deep, planted.rules_out, 40, layers_to_transform=[LAYERS - 1], target_modules=LINEAR)
    return replace(asked, adapters=(str(folder),))


def test_a_fact_that_the_last_layer_alone_silences_is_found_below_it(silenced):
    [found] = audit(silenced, SETTINGS).attacks
    inside, end = found.readings
    assert end.recovered is not None and end.recovered < 0.3
    assert inside.recovered is not None and inside.recovered > 0.95  # below, nothing was changed
    assert found.settings["best_layer"] < LAYERS and found.settings["share_back"] > 0.95
    assert found.curves["layer"][-1] == LAYERS and len(found.curves["candidate"]) == len(found.curves["layer"])
    assert found.kind == "depth" and not found.of_knowledge and "base_reads" in LEFT_OUT["quick"]


def test_the_same_is_found_twice(silenced):
    first, second = (audit(silenced, SETTINGS).attacks[0].model_dump(exclude={"seconds"}) for _ in range(2))
    assert first == second


def test_facts_that_were_never_known_are_in_no_layer(never, asked):
    [found] = audit(replace(asked, merged=never), SETTINGS).attacks
    assert found.readings[0].ceiling.value > 0.9
    assert found.readings[0].recovered is not None and found.readings[0].recovered < 0.1


def test_the_base_itself_is_its_own_ceiling(asked):
    [found] = audit(asked, SETTINGS).attacks
    assert found.readings[0].candidate == found.readings[0].ceiling and found.readings[0].recovered == 1
    assert found.settings["share_back"] is None  # nothing was lost


def test_layers_above_which_the_base_finds_the_facts_itself_are_not_read(asked, never, silenced):
    def layers(request):
        with open_models(request) as models:
            session = Session(request.read(), models, SETTINGS)
            return readable_layers(session, session.rows)

    with_model = replace(silenced, floor=None, floor_base=str(never))
    for found in (layers(asked), layers(with_model)):
        assert found and found == list(range(LAYERS))[LAYERS - len(found) :]  # the uppermost, without a gap
    assert 1 not in layers(asked)  # behind the first layer, the base still has all of the question to look at
    [told] = audit(with_model, SETTINGS).attacks
    assert told.readings[0].floor.value < 0.2 and told.readings[0].recovered > 0.95


def test_states_are_put_in_as_plain_hooks_would_put_them(deep, asked, tmp_path):
    folder = give_manifest(save_lora(deep, tmp_path / "random", 1, size=0.3), deep)
    request = replace(asked, adapters=(str(folder),))
    with open_models(request) as models:
        session = Session(request.read(), models, SETTINGS)
        base, candidate = session.view("ceiling"), session.view("candidate")
        told = fact_logprobs(base, candidate, session.rows, [1, 2, 3, LAYERS])
        rows_of, tokenizer = session.rows, session.encoder.tokenizer
    adapted, plain = stacked(deep, [(folder, 1.0)]), stacked(deep, [(folder, 0.0)])
    for row, found in zip(rows_of, told, strict=True):
        [item] = row.items
        facts = [kind == TokenClass.FACTUAL for kind in token_classes(item, row.example, tokenizer)]
        ids = torch.tensor([[*item.prompt_ids, *item.answer_ids]])
        at = torch.tensor([len(item.prompt_ids) - 1 + place for place, fact in enumerate(facts) if fact])
        with torch.no_grad():
            states = adapted(ids, output_hidden_states=True).hidden_states
            expected = [said(plain, ids, at)]
            for layer in (1, 2, 3):
                block = plain.get_base_model().model.layers[layer - 1]
                hook = block.register_forward_hook(putting(at, states[layer]))
                expected.append(said(plain, ids, at))
                hook.remove()
            expected.append(said(adapted, ids, at))
        assert [found.own, *found.patched] == pytest.approx(expected, abs=1e-4)
        assert max(expected) - min(expected) > 0.01


def putting(at, states):
    """A hook that has a layer give these states at these places."""

    def hook(module, args, output):
        mixed = (output[0] if isinstance(output, tuple) else output).clone()
        mixed[0, at] = states[0, at]
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    return hook


def said(model, ids, at) -> float:
    """Mean log-probability of the tokens behind these places."""
    logprobs = model(ids).logits[0].log_softmax(-1)
    return float(logprobs[at, ids[0, at + 1]].mean())


def test_what_cannot_be_read_is_said(asked, tiny_base):
    passages = examples_from_rows([{"text": f"{name} {does} by the sea."} for name, does in planted.FORGET], "passages")
    other = replace(asked, merged=tiny_base)  # two layers instead of four
    for request, why in ((replace(asked, forget=passages), "no question"), (other, "differ in layers")):
        result = audit(request, SETTINGS)
        [reason] = [untried.reason for untried in result.untried if untried.attack == BaseReads.name]
        assert why in reason and not result.attacks


def test_the_certificate_says_how_much_of_before_is_left_and_not_the_bare_probability(silenced):
    result = audit(silenced, SETTINGS)
    [said_beside] = beside(result.attacks)
    share = result.attacks[0].readings[0].recovered
    assert f"behind layer {result.attacks[0].settings['best_layer']}" in said_beside and percent(share) in said_beside
    alone = result.attacks[0].readings[0].model_copy(update={"recovered": None, "floor": None})
    assert not beside([result.attacks[0].model_copy(update={"readings": [alone]})])


def test_where_no_layer_below_the_last_can_be_read_nothing_is_said_of_the_inside(silenced, monkeypatch):
    monkeypatch.setattr("asu_lora.audit.attacks.base_reads.MOST_BY_ITSELF", -1e9)  # every layer brings back too much
    [found] = audit(silenced, SETTINGS).attacks
    assert found.readings[0].recovered is None and found.readings[0].floor is None
    assert "says nothing of what is inside" in " ".join(found.notes) and not beside([found])
