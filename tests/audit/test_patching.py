"""States of one model put into another: against transformers' layers by hand, and on models whose depth is known."""

import pytest
import torch
from peft import PeftModel

from asu_lora.audit.attacks.patching import knowledge, nats_lost, patched_layers
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit, open_models
from asu_lora.audit.session import Inputs, Session
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.examples import examples_from_rows
from asu_lora.models.decoder import base_model
from tests.support import planted
from tests.support.tiny_run import rows

MODULES = {"target_modules": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]}


@pytest.fixture(scope="module")
def adapters(taught_base, tmp_path_factory):
    """The same forgetting, by the last layer alone and by all of them."""
    folder = tmp_path_factory.mktemp("adapters")
    planted.save_planted(folder / "last", taught_base, planted.rules_out, layers_to_transform=[1], **MODULES)
    planted.save_planted(folder / "all", taught_base, planted.rules_out, **MODULES)
    return folder


def request(base, **more):
    facts = {"forget": planted.FORGET, "retain": planted.KEPT}
    told = {name: examples_from_rows(rows(some), "facts") for name, some in facts.items()}
    return AuditRequest(**told, base=str(base), precision="fp32", device="cpu", **more)


def attacked(base, never, **more):
    result = audit(request(base, floor_base=str(never), **more), AuditSettings(("patching",)))
    assert not [each for each in result.untried if each.attack == "patching"]
    [found] = result.attacks
    [reading] = found.readings
    return found, reading


def test_what_the_last_layer_alone_takes_away_is_found_below_it(taught_base, never_taught, adapters):
    _, last = attacked(taught_base, never_taught, adapters=(str(adapters / "last"),))
    found, every = attacked(taught_base, never_taught, adapters=(str(adapters / "all"),))
    assert last.ceiling.value == pytest.approx(1) and last.floor.value == pytest.approx(0)
    assert last.recovered > 0.3 and every.recovered < last.recovered - 0.1
    assert found.curves["layer"] == [1, 2] and found.settings["layers"] == 2
    below, above = found.curves["candidate"] if "candidate" in found.curves else found.curves["nats lost"]
    assert above > below > 0


def test_a_model_that_never_saw_the_rows_holds_nothing(taught_base, never_taught):
    _, reading = attacked(taught_base, never_taught, merged=never_taught)
    assert reading.recovered == pytest.approx(0) and reading.ceiling.value == pytest.approx(1)


def test_it_is_not_tried_without_a_model_that_never_saw_the_rows(taught_base, adapters):
    result = audit(request(taught_base, adapters=(str(adapters / "all"),)), AuditSettings(("patching", "direct")))
    [untried] = [each for each in result.untried if each.attack == "patching"]
    assert "--floor-base" in untried.reason


def by_hand(model, states, layer):
    """Logits of the base's layers above one, from the states that leave it: transformers' own modules, one by one."""
    inner = model.model
    positions = torch.arange(states.shape[1])[None]
    rotary = inner.rotary_emb(states, positions)
    for above in inner.layers[layer + 1 :]:
        states = above(states, attention_mask=None, position_ids=positions, position_embeddings=rotary)
        states = states[0] if isinstance(states, tuple) else states
    return model.lm_head(inner.norm(states)).log_softmax(-1)


@torch.no_grad()
def test_what_is_lost_is_what_the_layers_above_make_of_the_states(taught_base, never_taught, adapters):
    asked = request(taught_base, adapters=(str(adapters / "all"),), floor_base=str(never_taught))
    with open_models(asked) as models:
        session = Session(Inputs(asked.forget, asked.retain), models, AuditSettings(("patching",)))
        source, base = session.view("candidate"), session.view("ceiling")
        found = nats_lost(source, base, session.rows)
        assert isinstance(source.model, PeftModel) and patched_layers(base.model) == [0, 1]
        row = session.rows[2]
        item = base.encoder.encode(row.example, row.number)[0]
        ids = torch.tensor([[*item.prompt_ids, *item.answer_ids]])
        with source.on():
            states = base_model(source.model).model(ids, output_hidden_states=True).hidden_states
        with base.on():
            model = base_model(base.model)
            own = model(ids).logits.log_softmax(-1)
            # the last of transformers' hidden states has gone through the norm already
            patched = [by_hand(model, states[1], 0)]
        from asu_lora.audit.factual_tokens import factual_tokens

        facts = torch.tensor(factual_tokens(base, item, row))
        answer, start = torch.tensor(item.answer_ids), len(item.prompt_ids) - 1

        def mean(logprobs):
            return logprobs[0, start:-1].gather(1, answer[:, None])[facts].mean().item()

        assert found[row.number][0] == pytest.approx(mean(own) - mean(patched[0]), abs=1e-4)
        assert abs(found[row.number][0]) > 0.01


def test_knowledge_counts_layers_at_which_a_stranger_loses_something():
    assert knowledge([0.0, 0.0], [1.0, 3.0]) == 1 and knowledge([1.0, 3.0], [1.0, 3.0]) == 0
    assert knowledge([0.0, 3.0], [1.0, 3.0]) == pytest.approx(0.25)
    assert knowledge([9.0, -1.0], [1.0, 3.0]) == pytest.approx(0.75)  # no more than all, no less than nothing
    assert knowledge([0.5, 5.0], [1.0, 0.01]) == pytest.approx(0.5)
    assert knowledge([0.5], [0.0]) is None
