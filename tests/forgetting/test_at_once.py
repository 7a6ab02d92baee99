"""Requests that are trained at once make the adapters that they would have made one after the other."""

import pytest
import torch

from asu_lora.adapters.lora_folder import read_lora
from asu_lora.adapters.manifest import read_manifest
from asu_lora.adapters.own_inputs import read_own_inputs
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError, TrainingError
from asu_lora.forgetting.at_once import forget_at_once
from asu_lora.forgetting.forget import forget
from asu_lora.training.shared_passes import SharedPasses
from tests.support.adapter_weights import same, weights
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings


def requests_of(*sizes, keep=FACTS[-4:]):
    """Requests of so many facts each, one after another."""
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    return {
        f"r{n}": ForgetRequest.from_rows(rows(FACTS[start : start + size]), rows(keep), f"r{n}")
        for n, (start, size) in enumerate(zip(starts, sizes, strict=True))
    }


def far(one, two):
    """The largest difference over the largest number, of all B."""
    names = [name for name in one if "lora_B" in name]
    largest = max(float(one[name].abs().max()) for name in names)
    return max(float((one[name] - two[name]).abs().max()) for name in names) / largest


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 3, "own_words": 0.34, "eval_rows": 2, "lr": 1e-2},
        {"epochs": 2, "batch_size": 1, "grad_accum": 2, "retain_dose": 3.0, "keep_off": 0.25, "forget_dose": 2.0}
        | {"settle_at": 0.5},
        {"epochs": 2, "objective": "npo", "retain_loss": "gd", "micro_batch_tokens": 100},
    ],
    ids=["own words and scores", "adding up, and accumulation", "another loss, in small passes"],
)
def test_the_adapters_are_those_of_one_after_the_other(base, tmp_path, changes, snapshot, monkeypatch):
    """Of different lengths: one ends earlier than the others. In fp32, so that only rounding differs."""
    config = tiny_settings(**changes)
    requests = requests_of(2, 3, 1)
    alone = {name: forget(each, base, config, name=name, store=tmp_path / "alone") for name, each in requests.items()}
    passes, rows_of = [], SharedPasses._forward
    monkeypatch.setattr(SharedPasses, "_forward", lambda self, asked: passes.append(len(asked)) or rows_of(self, asked))
    found = forget_at_once(requests, base, config, store=tmp_path / "once")
    assert list(found) == list(requests) and max(passes) == 3 and passes[-1] < 3
    for name, result in found.items():
        one, two = weights(tmp_path / "alone", name), weights(tmp_path / "once", name)
        assert far(one, two) < 1e-3
        before, after = (read_manifest(tmp_path / store / name) for store in ("alone", "once"))
        assert (after.training.pop("at_once"), after.training["steps"]) == (3, before.training["steps"])
        assert after.training["train_loss"] == pytest.approx(before.training["train_loss"], rel=1e-3)
        assert after.lora == before.lora and after.request.forget_tokens == before.request.forget_tokens
        assert result.before == alone[name].before and result.after == pytest.approx(alone[name].after, abs=0.02)
    assert not (tmp_path / "once" / ".runs").exists()


def test_each_row_meets_its_own_adapter_alone(base, tmp_path):
    """The adapters of one request don't depend on whom it is trained beside."""
    config = tiny_settings(epochs=2)
    requests = requests_of(2, 2, 2)
    forget_at_once({name: requests[name] for name in ("r0", "r1")}, base, config, store=tmp_path / "a")
    forget_at_once({name: requests[name] for name in ("r2", "r0")}, base, config, store=tmp_path / "b")
    assert far(weights(tmp_path / "a", "r0"), weights(tmp_path / "b", "r0")) < 1e-3
    assert far(weights(tmp_path / "a", "r0"), weights(tmp_path / "a", "r1")) > 0.1


def test_what_each_reads_of_its_request_is_kept_as_alone(base, tmp_path):
    config, requests = tiny_settings(epochs=2, keep_off=0.5, settle_at=0.15, retain_dose=4.0), requests_of(2, 2)
    forget_at_once(requests, base, config, store=tmp_path)
    forget(requests["r1"], base, config, name="alone", store=tmp_path)
    kept = {name: read_own_inputs(read_lora(tmp_path / name)) for name in ("r1", "alone", "r0")}

    def apart(name):
        return max(float((kept[name][of] - kept["r1"][of]).norm() / kept["r1"][of].norm()) for of in kept["r1"])

    assert kept["r1"] and apart("alone") < 0.02 < 0.1 < apart("r0")


def test_a_request_that_fails_leaves_the_others_alone(base, tmp_path, snapshot):
    """One can't begin, one is in other hands in the middle of its training."""
    config = tiny_settings(epochs=2)
    requests = requests_of(2, 2, 2)
    requests["r1"] = ForgetRequest.from_rows(rows(FACTS[2:4]), [], "r1")

    class Lost(Listener):
        def advance(self, amount=1, **figures):
            super().advance(amount, **figures)
            if self.steps == 1:
                raise TrainingError("It is in other hands.")

    found = forget_at_once(requests | {"r3": requests["r2"]}, base, config, store=tmp_path, progress={"r3": Lost()})
    assert isinstance(found["r1"], SettingError) and isinstance(found["r3"], TrainingError)
    forget(requests["r2"], base, config, name="alone", store=tmp_path)
    assert far(weights(tmp_path, "alone"), weights(tmp_path, "r2")) < 1e-3
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["alone", "r0", "r2"]
    assert not (tmp_path / ".runs").exists()


def test_what_was_cut_off_goes_on_alone_or_in_company(base, tmp_path, snapshot):
    config = tiny_settings(epochs=3)
    requests = requests_of(2, 4)
    forget_at_once(requests, base, config, store=tmp_path / "whole")
    heard = {name: Listener(stop_at=5 if name == "r1" else None) for name in requests}  # in the third epoch of 2 steps
    with pytest.raises(KeyboardInterrupt):
        forget_at_once(requests, base, config, store=tmp_path / "cut", progress=heard)
    assert sorted(path.name for path in (tmp_path / "cut" / ".runs").iterdir()) == ["r0", "r1"]
    again = Listener()
    forget(requests["r1"], base, config, name="r1", store=tmp_path / "cut", resume=True, progress=again)
    assert again.steps == 6 and len(again.figures) == 2
    found = forget_at_once({"r0": requests["r0"]}, base, config, store=tmp_path / "cut", resume=["r0"])
    assert found["r0"].record.training["steps"] == 3
    for name in requests:
        assert far(weights(tmp_path / "whole", name), weights(tmp_path / "cut", name)) < 1e-3


def test_settings_that_would_make_other_adapters_are_refused(base, tmp_path):
    for changes in ({"dropout": 0.1}, {"gradient_checkpointing": True}):
        with pytest.raises(SettingError, match="not trained at once with --"):
            forget_at_once(requests_of(1, 1), base, tiny_settings(**changes), store=tmp_path)
    assert not any(tmp_path.iterdir())


def test_nf4_is_trained_at_once_too(taught_base, tmp_path, nf4_compute):
    from asu_lora.models.loading import load_base

    loaded = load_base(str(taught_base), "nf4", "cpu")
    # plain gradient descent: Adam would blow rounding up where a gradient is near zero
    config, requests = tiny_settings(precision="nf4", epochs=2, optimizer="sgd", lr=0.3), requests_of(2, 2)
    found = forget_at_once(requests, loaded, config, store=tmp_path)
    forget(requests["r1"], loaded, config, name="alone", store=tmp_path)
    assert not same(weights(tmp_path, "r0"), weights(tmp_path, "r1"))
    rounding = 1e-3 if loaded.compute_dtype == torch.float32 else 0.1
    assert far(weights(tmp_path, "alone"), weights(tmp_path, "r1")) < rounding
    assert found["r1"].record.training["steps"] == 2
