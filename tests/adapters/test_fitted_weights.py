"""Weights for a sum of adapters, read off their updates, or off their curves: against the equations, and refusals."""

import itertools
import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from asu_lora.adapters.fitted_weights import ALONG, LEAST, _within_bounds, fitted_weights, fitting, told, weighed
from asu_lora.adapters.forgetting_curve import ForgettingCurve, enough, forgetting_curve
from asu_lora.adapters.inner_products import inner_products
from asu_lora.adapters.lora_folder import read_lora
from asu_lora.errors import AdapterError, SettingError
from asu_lora.models.adapter_stack import load
from tests.support.lora_folders import give_manifest, lean, save_lora

CURVES = {  # by weight; those of three requests of SmolLM2 are alike
    "anna": {0: 0.87, 0.36: 0.74, 0.54: 0.6, 0.72: 0.43, 0.9: 0.28, 1.0: 0.217, 1.18: 0.145},
    "ben": {0: 0.9, 0.39: 0.77, 0.58: 0.6, 0.78: 0.41, 0.97: 0.24, 1.0: 0.225, 1.27: 0.109},
    "carl": {0: 0.87, 0.4: 0.71, 0.6: 0.54, 0.8: 0.36, 1.0: 0.217, 1.3: 0.11},
}


def give_curve(folder, curve, **fields):
    manifest = json.loads((folder / "manifest.json").read_text()) | fields
    manifest["method"]["details"]["forgetting_curve"] = curve
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def points(curve):
    return [{"weight": weight, "forget_probability": probability} for weight, probability in curve.items()]


@pytest.fixture
def folders(tiny_base, tmp_path):
    made = lean([save_lora(tiny_base, tmp_path / name, seed) for seed, name in enumerate(CURVES)])
    return [give_curve(give_manifest(folder, tiny_base), points(CURVES[folder.name])) for folder in made]


def log_probability(name, weight):
    """ln p of a curve, by numpy."""
    return np.interp(weight, list(CURVES[name]), np.log(list(CURVES[name].values())))


def update(folder):
    """Its whole update, all modules after one another; alpha 8 over rank 4."""
    tensors = load_file(folder / "adapter_model.safetensors")
    return torch.cat(
        [
            2.0 * (tensors[key.replace("lora_A", "lora_B")].double() @ tensors[key].double()).flatten()
            for key in sorted(tensors)
            if "lora_A" in key
        ]
    )


def test_each_goes_as_far_along_its_own_update_as_alone(folders):
    weights = fitted_weights(folders)
    updates = [update(folder) for folder in folders]
    assert all(0.5 < weight < 0.95 for weight in weights)
    for i, own in enumerate(updates):
        others = sum(weights[j] * float(each @ own / (own @ own)) for j, each in enumerate(updates) if j != i)
        assert weights[i] + ALONG * others == pytest.approx(1.0, abs=2e-3)


def test_adapters_that_do_not_meet_keep_their_weights_and_those_against_each_other_too(folders, tiny_base, tmp_path):
    apart = [
        give_curve(
            give_manifest(save_lora(tiny_base, tmp_path / f"apart-{seed}", seed), tiny_base), points({0: 0.9, 1: 0.8})
        )
        for seed in range(10, 30)
    ]
    assert min(fitted_weights(apart)) > 0.9  # twenty of them: what they share is chance
    tensors = load_file(folders[0] / "adapter_model.safetensors")
    against = {key: -value if "lora_B" in key else value for key, value in tensors.items()}
    save_file(against, folders[1] / "adapter_model.safetensors", {"format": "pt"})
    assert fitted_weights(folders[:2]) == [1.0, 1.0]  # more than 1 is never given


@pytest.mark.parametrize(
    "along",
    [
        [[1, 1.2, 1.1], [0.5, 1, 0.5], [0.5, 0.5, 1]],  # the first would get -1.2
        [[1, -0.6, 0.3], [-0.6, 1, 0.2], [0.3, 0.2, 1]],  # two would get more than 1
        [[1, 1], [1, 1]],
    ],
)
def test_what_stands_at_its_bound_leaves_the_others_their_equations(along):
    along = np.array(along, dtype=float)
    weights = _within_bounds(along)
    assert (weights >= LEAST).all() and (weights <= 1).all()
    for weight, acting in zip(weights, along @ weights, strict=True):
        assert acting == pytest.approx(1.0) or weight in (LEAST, 1.0)


def test_an_adapter_that_changes_nothing_leaves_the_others_theirs(folders):
    two = fitted_weights(folders[:2])
    tensors = load_file(folders[2] / "adapter_model.safetensors")
    save_file({key: 0 * value for key, value in tensors.items()}, folders[2] / "adapter_model.safetensors")
    assert fitted_weights(folders) == [*two, 1.0]


def test_products_are_those_of_whole_updates_whatever_modules_each_has(tiny_base, tmp_path):
    made = [
        save_lora(tiny_base, tmp_path / str(at), at, r=rank, lora_alpha=8, target_modules=names)
        for at, (rank, names) in enumerate([(4, ["q_proj", "v_proj"]), (2, ["v_proj"]), (3, ["up_proj", "v_proj"])])
    ]
    found, wanted = inner_products([read_lora(folder) for folder in made]), torch.zeros(3, 3, dtype=torch.double)
    for i, j in itertools.product(range(3), repeat=2):
        one, other = (load_file(made[at] / "adapter_model.safetensors") for at in (i, j))
        for key in one.keys() & other.keys():
            if "lora_A" in key:
                of = [
                    t[key.replace("lora_A", "lora_B")].double() @ t[key].double() * 8 / len(t[key])
                    for t in (one, other)
                ]
                wanted[i, j] += (of[0] * of[1]).sum()
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("interference", [0.02, 0.1, 0.2])
def test_each_is_forgotten_in_the_sum_as_alone(folders, interference):
    weights = dict(zip(CURVES, fitted_weights(folders, interference), strict=True))
    assert all(0.5 < weight < 1 for weight in weights.values())
    pressure = interference * 2 * np.mean(list(weights.values()))
    for name, weight in weights.items():
        assert log_probability(name, weight) - pressure == pytest.approx(log_probability(name, 1.0), abs=4e-3)


def test_a_pressure_that_no_float_holds_asks_for_the_least(folders):
    assert fitted_weights(folders, 10_000) == [LEAST] * 3  # as thousands of requests in one set press


def test_order_says_nothing_and_more_adapters_or_more_interference_less_weight(folders):
    weights = fitted_weights(folders)
    assert fitted_weights(folders[::-1]) == weights[::-1]
    two = fitted_weights(folders[:2])
    assert all(w < of_two < 1 for w, of_two in zip(weights, two, strict=False))
    measured = fitted_weights(folders, 0.1)
    assert all(w < before for w, before in zip(fitted_weights(folders, 0.2), measured, strict=True))
    assert fitted_weights(folders[:1]) == [1.0] and fitted_weights(folders, 0.0) == [1.0] * 3


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=6, unique=True), st.floats(0, 1))
def test_a_curve_gives_the_weight_of_its_probability(values, weight):
    falling = tuple(sorted(values, reverse=True))
    curve = ForgettingCurve(tuple(np.linspace(0, 1, len(falling))), falling)
    back = partial(enough, curve.weights, curve.probabilities)
    assert curve.at(back(curve.at(weight))) == pytest.approx(curve.at(weight), rel=1e-6)
    assert back(1.0) == 0 and back(0.0) == 1
    assert math.log(curve.at(weight)) == pytest.approx(float(np.interp(weight, curve.weights, np.log(falling))))


def test_a_set_that_can_not_be_fitted_has_none(folders, tiny_base, tmp_path):
    ones = [(folder, 1.0) for folder in folders]
    assert fitting(ones) == fitted_weights(folders) and fitting(ones, 0.2) == fitted_weights(folders, 0.2)
    assert fitting(ones[:1]) is None and fitting([*ones[:2], (folders[2], 0.5)]) is None
    assert fitting([*ones, (give_manifest(save_lora(tiny_base, tmp_path / "old", 9), tiny_base), 1.0)]) is None


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        ([], "has no curve of forgetting .* --adds-up"),
        (points({0: 0.9}), "is damaged"),
        (points({0: 0.9, 1: math.inf}), "is damaged"),
        (points({0: 0.9, 1: 1.5}), "is damaged"),
        ([{"weight": 0}, {"weight": 1}], "is damaged"),
        ("weights", "is damaged"),
        (points({0: 0.9}) * 2, "is damaged"),
    ],
)
def test_no_curve_or_a_damaged_one_is_refused(folders, curve, said):
    give_curve(folders[1], curve)
    with pytest.raises(AdapterError, match=f"'ben' {said}|of 'ben' {said}"):
        fitted_weights(folders)


def test_what_was_trained_on_top_of_others_is_refused_and_so_is_nonsense(folders):
    give_curve(folders[2], points(CURVES["carl"]), on_top_of=[{"name": "anna", "fingerprint": "f"}])
    with pytest.raises(AdapterError, match="'carl' was trained on top of 'anna'"):
        forgetting_curve(folders[2])
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(SettingError, match="interference must be"):
            fitted_weights(folders[:2], wrong)


@pytest.fixture
def store(folders, tmp_path):
    from asu_lora.adapters.store import AdapterStore

    store = AdapterStore(tmp_path / "store")
    for folder in folders:
        store.import_(folder, folder.name)
    return store


def run(store, *words):
    from click.testing import CliRunner

    from asu_lora.cli import main

    return CliRunner().invoke(main, [*map(str, words), "--store", str(store.root)])


def spelled(weights):
    return ", ".join(f"{name}:{weight:g}" for name, weight in zip(CURVES, weights, strict=True))


def test_names_without_a_weight_act_at_fitted_ones(folders, store, tiny_base):
    fitted = fitted_weights(folders)
    assert weighed(CURVES, store) == list(zip(CURVES, fitted, strict=True))
    assert told(list(CURVES), weighed(CURVES, store))[0].startswith(
        f"Adapters that were trained to add up act at {spelled(fitted)}"
    )
    for typed, weights in (
        (["anna", "ben:1", "carl"], [1, 1, 1]),
        (["anna:0.5", "ben"], [0.5, 1]),
        ([("anna", 1.0), ("ben", 1.0)], [1, 1]),
        (["anna"], [1]),
    ):
        assert [weight for _, weight in weighed(typed, store)] == weights and not told(typed, weighed(typed, store))
    stack = load(str(tiny_base), list(CURVES), store, "fp32", "cpu")
    assert stack.adapters == list(zip(CURVES, fitted, strict=True)) and spelled(fitted) in stack.notes[0]
    plain = load(str(tiny_base), [(name, 1.0) for name in CURVES], store, "fp32", "cpu")
    assert [weight for _, weight in plain.adapters] == [1, 1, 1] and plain.notes == stack.notes[1:]


def test_the_command_combines_at_fitted_weights(folders, store):
    def weights_of(*words):
        done = run(store, "adapters", "combine", *words, "--json")
        assert done.exit_code == 0, done.output
        return [source["weight"] for source in json.loads(done.stdout)["sources"]]

    fitted = fitted_weights(folders)
    assert weights_of(*CURVES, "--name", "all") == weights_of(*CURVES, "--name", "fit", "--fit") == fitted
    assert weights_of(*CURVES, "--name", "plain", "--no-fit") == [1, 1, 1]
    assert weights_of("anna", "ben:1", "--name", "two") == [1, 1]
    at_rank = weights_of(*CURVES, "--name", "cut", "--rank", 2)  # what is cut off is made up for
    assert at_rank == pytest.approx([weight * at_rank[0] / fitted[0] for weight in fitted]) and at_rank[0] > fitted[0]
    assert weights_of(*CURVES, "--name", "cut-plain", "--rank", 2, "--no-fit") == [1, 1, 1]
    done = run(store, "adapters", "combine", *CURVES, "--name", "more", "--fit", "--interference", 0.2)
    assert f"act at {spelled(fitted_weights(folders, 0.2))}," in done.stdout
    for words, said in (
        (("anna:0.5", "ben", "--fit"), "--fit chooses the weights"),
        (("anna", "ben", "--interference", 0.1), "--interference is for --fit"),
        (("all", "ben", "--fit"), "'all' and 'ben' hold the same request"),
    ):
        refused = run(store, "adapters", "combine", *words, "--name", "never")
        assert refused.exit_code == 2 and said in refused.stderr and "never" not in store.names()


def test_check_says_at_which_weights_they_act(folders, store):
    assert spelled(fitted_weights(folders)).replace(",", "") in run(store, "adapters", "check", *CURVES).stdout
    assert json.loads(run(store, "adapters", "check", *CURVES, "--json").stdout)["fitted"] == fitted_weights(folders)
    assert "they act at" not in run(store, "adapters", "check", "anna:0.5", "ben").stdout


def test_merging_takes_the_same_weights_and_says_so(folders, store, tiny_base, tmp_path):
    def merged(out, *adapters):
        typed = [word for adapter in adapters for word in ("-a", adapter)]
        done = run(store, "merge", "--base", tiny_base, *typed, "--out", tmp_path / out, "--precision", "fp32")
        assert done.exit_code == 0, done.output
        return load_file(tmp_path / out / "model.safetensors"), done.stderr

    fitted, note = merged("fitted", *CURVES)
    typed, quiet = merged("typed", *spelled(fitted_weights(folders)).split(", "))
    assert spelled(fitted_weights(folders)) in note and "act at" not in quiet
    assert all(torch.equal(fitted[name], typed[name]) for name in typed)
