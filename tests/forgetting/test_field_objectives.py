"""The field's further objectives as whole runs: they train, resume, tell their numbers, and leave the base as it was."""

import math

import pytest
import torch

from asu_lora.adapters.manifest import read_manifest
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError, TrainingError
from asu_lora.forgetting.dry_run import plan_run
from asu_lora.forgetting.forget import forget
from tests.support.adapter_weights import same, weights
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_request, tiny_settings

PAIRS = [
    ("simnpo", "gd"),
    ("rmu", "rmu"),
    ("undial", "none"),
    ("altpo", "gd"),
    ("wga", "gd"),
    ("satimp", "gd"),
    ("ceu", "none"),
    ("pdu", "gd"),
    ("jensun", "js"),
]


@pytest.mark.parametrize(("objective", "retain"), PAIRS)
def test_each_runs_and_its_manifest_says_what_with(base, tmp_path, objective, retain, snapshot):
    settings = tiny_settings(epochs=1, objective=objective, retain_loss=retain)
    heard = Listener()
    made = forget(tiny_request(3, 3), base, settings, store=tmp_path, progress=heard)
    assert math.isfinite(made.record.training["train_loss"]) and made.record.tau is None
    told = read_manifest(tmp_path / made.name).method.details.get("loss_settings", {})
    expected = {
        "simnpo": {"beta": 4.5, "gamma": 0.0},
        "rmu": {"steering": 6.5, "layer": -1},
        "undial": {"beta": 10.0},
        "altpo": {"beta": 0.1},
        "wga": {"beta": 1.0},
        "satimp": {"beta1": 5.0, "beta2": 1.0},
        "ceu": {"skip": 1},
        "pdu": {"epsilon": 0.3, "step": 5.0, "warmup": 5.0},
        "jensun": None,
    }[objective]
    assert told.get("forget") == expected
    assert ("Making up other answers" in heard.stages) == (objective == "altpo")


@pytest.mark.parametrize(("objective", "retain"), PAIRS)
def test_the_plan_knows_each(tiny_base, tmp_path, objective, retain):
    settings = tiny_settings(objective=objective, retain_loss=retain)
    said, plan = plan_run(tiny_request(), str(tiny_base), settings, name="x", store=tmp_path)
    assert said["method"].startswith(f"{objective} with {retain}, ") and plan.phases["training"]["activations"] > 0
    assert ("tau" in said["method"]) == (objective == "jensun")


def test_a_layers_states_take_memory(tiny_base, tmp_path):
    """RMU holds a layer's states beside the final ones, and the base's of the retain rows."""

    def parts(retain):
        settings = tiny_settings(objective="ga", retain_loss=retain)
        return plan_run(tiny_request(), str(tiny_base), settings, name="x", store=tmp_path)[1].phases["training"]

    assert parts("rmu")["cache"] > parts("gd")["cache"]


def test_the_multiplier_of_pdu_goes_on_where_an_interrupted_run_left_it(base, tmp_path):
    """It moves from the second epoch on; the run is broken off in the third, after a checkpoint."""
    settings = tiny_settings(
        objective="pdu", retain_loss="gd", epochs=4, retain_coeff=2.0, loss_settings="epsilon=0.001,step=50,warmup=1"
    )
    seen = []

    class Coefficients(Listener):
        def advance(self, amount=1, **figures):
            seen.append(figures.get("retain_coeff"))
            super().advance(amount, **figures)

    forget(tiny_request(), base, settings, name="whole", store=tmp_path, progress=Coefficients())
    moving = [value for value in seen if value is not None]
    assert moving[:2] == [2.0, 2.0] and len(set(moving)) > 4
    with pytest.raises(KeyboardInterrupt):
        forget(tiny_request(), base, settings, name="broken", store=tmp_path, progress=Listener(stop_at=8))
    forget(tiny_request(), base, settings, name="broken", store=tmp_path, resume=True)
    assert same(weights(tmp_path, "whole"), weights(tmp_path, "broken"))


def test_the_multiplier_of_pdu_moves_in_a_run_as_short_as_its_warm_up(base, tmp_path):
    """The paper's warm-up is 5 epochs: of a run of 5 it takes the half."""
    settings = tiny_settings(objective="pdu", retain_loss="gd", epochs=5, batch_size=3, retain_coeff=100.0)
    seen = []

    class Coefficients(Listener):
        def advance(self, amount=1, **figures):
            seen.append(figures.get("retain_coeff"))

    forget(tiny_request(), base, settings, store=tmp_path, progress=Coefficients())
    weights_of_steps = [value for value in seen if value is not None]
    assert len(weights_of_steps) == 10  # two steps an epoch
    assert weights_of_steps[:4] == [100.0] * 4 and len(set(weights_of_steps[4:])) == 6


def test_rows_own_alternates_are_taken_and_the_base_is_not_asked(base, tmp_path):
    given = [{**row, "alternate_answer": ["No one knows.", "Nothing."]} for row in rows(FACTS[:3])]
    request = ForgetRequest.from_rows(given, rows(FACTS[-3:]), "given")
    heard = Listener()
    forget(request, base, tiny_settings(epochs=1, objective="altpo", retain_loss="gd"), store=tmp_path, progress=heard)
    assert "Making up other answers" not in heard.stages


def test_what_cannot_be_is_refused(base, tmp_path, snapshot):
    passages = ForgetRequest.from_rows([{"text": "Anna Birk keeps bees in a meadow."}], rows(FACTS[-3:]), "text")
    with pytest.raises(TrainingError, match="altpo needs questions"):
        forget(passages, base, tiny_settings(objective="altpo"), store=tmp_path)
    with pytest.raises(SettingError, match="layer of rmu is 9"):
        forget(tiny_request(), base, tiny_settings(objective="rmu", loss_settings="layer=9"), store=tmp_path)
    heard = Listener()
    with pytest.raises(SettingError, match="gives delta, but simnpo and kl-answers has"):
        settings = tiny_settings(objective="simnpo", loss_settings="delta=1")
        forget(tiny_request(), base, settings, store=tmp_path, progress=heard)
    assert heard.stages == []


def test_gradient_checkpointing_leaves_the_gradient_of_a_layers_states(base, tmp_path):
    settings = tiny_settings(objective="rmu", retain_loss="rmu", epochs=1, optimizer="sgd", lr=0.1)
    forget(tiny_request(), base, settings, name="plain", store=tmp_path)
    again = tiny_settings(**{**vars(settings), "gradient_checkpointing": True})
    forget(tiny_request(), base, again, name="again", store=tmp_path)
    plain, other = weights(tmp_path, "plain"), weights(tmp_path, "again")
    assert any(weight.any() for key, weight in plain.items() if "lora_B" in key)
    assert all(torch.allclose(plain[key], other[key], atol=1e-6) for key in plain)
