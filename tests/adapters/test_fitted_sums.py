"""Combined adapters beside others: their parts' curves, one weight for all of them, and who has none is named."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from asu_lora.adapters.combine import combine
from asu_lora.adapters.fitted_weights import LEAST, fitted_weights, fitting, told, unfitted
from asu_lora.adapters.forgetting_curve import curves_inside, held_weight
from asu_lora.adapters.manifest import StackedOn, fingerprint_of, read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from asu_lora.errors import AdapterError
from asu_lora.models.adapter_stack import load
from tests.support.lora_folders import change_manifest, give_manifest, lean, save_lora

CURVES = {  # by weight
    "anna": {0: 0.87, 0.36: 0.74, 0.54: 0.6, 0.72: 0.43, 0.9: 0.28, 1.0: 0.217, 1.18: 0.145},
    "ben": {0: 0.9, 0.39: 0.77, 0.58: 0.6, 0.78: 0.41, 0.97: 0.24, 1.0: 0.225, 1.27: 0.109},
    "carl": {0: 0.87, 0.4: 0.71, 0.6: 0.54, 0.8: 0.36, 1.0: 0.217, 1.3: 0.11},
    "dora": {0: 0.95, 0.5: 0.5, 1.0: 0.1, 1.2: 0.06},
}


@pytest.fixture
def folders(tiny_base, tmp_path):
    """{name: folder}, with manifests and curves; ``old`` has none."""
    found = {}
    for folder in lean([save_lora(tiny_base, tmp_path / name, seed) for seed, name in enumerate([*CURVES, "old"])]):
        name = folder.name
        found[name] = give_manifest(folder, tiny_base)
        if name in CURVES:
            points = [{"weight": w, "forget_probability": p} for w, p in CURVES[name].items()]
            change_manifest(
                found[name], lambda m, points=points: m["method"]["details"].update(forgetting_curve=points)
            )
    return found


def add_up(folders, name, parts, weights=None, **more):
    """Combine by name, by default at fitted weights."""
    sources = [folders[part] for part in parts]
    folders[name] = sources[0].parent / name
    combine(sources, weights or fitted_weights(sources), folders[name], name=name, **more)
    return folders[name]


def log_probability(name, weight):
    """ln p of a curve, by numpy."""
    return np.interp(weight, list(CURVES[name]), np.log(list(CURVES[name].values())))


def directly(groups, interference=0.1):
    """The weights by trying them: pressure by pressure, the least weight of each group that satisfies its equations.

    Args:
        groups: for each adapter {part: weight in it}.
    """
    grid = np.linspace(0, 1, 4001)
    count = sum(map(len, groups))
    found, pressure = [], 0.0
    for _ in range(100):
        found = []
        for group in groups:
            own = interference * (len(group) - 1) * np.mean(list(group.values()))
            enough = [
                log_probability(name, grid * share) - pressure <= log_probability(name, share) - own + 1e-9
                for name, share in group.items()
            ]
            fine = grid[np.logical_and.reduce(enough)]
            found.append(max(fine[0] if len(fine) else 1.0, LEAST))
        acting = [w * share for w, group in zip(found, groups, strict=True) for share in group.values()]
        pressure = (pressure + interference * (count - 1) * np.mean(acting)) / 2
    return found


@pytest.mark.parametrize("interference", [0.05, 0.1, 0.2])
def test_a_sum_beside_others_gets_the_weight_that_its_equations_give(folders, interference):
    two = [folders["anna"], folders["ben"]]
    shares = fitted_weights(two, interference)
    add_up(folders, "both", ["anna", "ben"], shares)
    for names, groups in (
        (["both", "carl"], [dict(zip(("anna", "ben"), shares, strict=True)), {"carl": 1.0}]),
        (["dora", "both", "carl"], [{"dora": 1.0}, dict(zip(("anna", "ben"), shares, strict=True)), {"carl": 1.0}]),
    ):
        weights = fitted_weights([folders[name] for name in names], interference)
        assert weights == pytest.approx(directly(groups, interference), abs=1e-3)
        assert all(0.5 < weight < 1 for weight in weights)


def test_requests_in_sums_act_nearly_as_if_they_were_named_one_by_one(folders):
    whole = dict(zip(CURVES, fitted_weights([folders[name] for name in CURVES]), strict=True))
    for other in ("ben", "carl", "dora"):
        groups = [("anna", other), tuple(name for name in CURVES if name not in ("anna", other))]
        shares = [fitted_weights([folders[name] for name in group]) for group in groups]
        weights = fitted_weights([add_up(folders, "-".join(group), group) for group in groups])
        for group, share, weight in zip(groups, shares, weights, strict=True):
            for name, inside in zip(group, share, strict=True):
                # these share far more than trained ones do: weights go down to 0.55
                assert weight * inside == pytest.approx(whole[name], abs=0.07)


def test_alike_parts_act_as_they_would_by_name(folders):
    same = json.loads((folders["anna"] / "manifest.json").read_text())["method"]["details"]["forgetting_curve"]
    for name in CURVES:
        change_manifest(folders[name], lambda m: m["method"]["details"].update(forgetting_curve=same))
    direct = fitted_weights([folders[name] for name in CURVES])
    shares = fitted_weights([folders[name] for name in ("anna", "ben", "carl")])
    three = add_up(folders, "three", ["anna", "ben", "carl"])
    weight, alone = fitted_weights([three, folders["dora"]])
    assert [weight * shares[0], alone] == pytest.approx([direct[0], direct[3]], abs=0.04)
    assert fitted_weights([three]) == [1.0] and fitted_weights([three, folders["dora"]], 0.0) == [1.0, 1.0]
    assert held_weight(three) == pytest.approx(sum(shares)) and held_weight(folders["old"]) == 1.0


def test_a_sum_of_sums_has_all_curves_each_at_its_weight_in_it(folders):
    add_up(folders, "both", ["anna", "ben"], [0.9, 0.8])
    deep = add_up(folders, "deep", ["both", "carl"], [0.5, 1.0])
    parts = curves_inside(deep)
    assert [part.fingerprint for part in parts] == [fingerprint_of(folders[name]) for name in ("anna", "ben", "carl")]
    assert [part.weight for part in parts] == pytest.approx([0.45, 0.4, 1.0])
    assert [part.curve for part in parts] == [curves_inside(folders[name])[0].curve for name in ("anna", "ben", "carl")]


def test_a_sum_that_can_not_be_told_has_no_curves(folders):
    anna = StackedOn(name="anna", fingerprint=fingerprint_of(folders["anna"]))
    for name, parts, weights, more in (
        ("cut", ["anna", "ben"], [1.0, 1.0], {"rank": 2}),
        ("less", ["anna", "ben"], [1.0, -0.5], {}),
        ("with-old", ["anna", "old"], [1.0, 1.0], {}),
    ):
        with pytest.raises(AdapterError, match=f"'{name}' has no curve of forgetting .* combine it anew, exactly"):
            curves_inside(add_up(folders, name, parts, weights, **more))
    change_manifest(folders["ben"], lambda m: m.update(on_top_of=[anna.model_dump()]))
    assert "forgetting_curves" not in read_manifest(add_up(folders, "on", ["anna", "ben"], [1.0, 1.0])).method.details
    both = add_up(folders, "both", ["anna", "carl"])
    change_manifest(both, lambda m: m["method"]["details"].update(contents=[], sources=[]))
    with pytest.raises(AdapterError, match="'both' is damaged"):
        curves_inside(both)


def test_who_has_no_curve_is_named_and_a_stack_or_a_plain_set_is_not_talked_about(folders):
    pair = [(folders["anna"], 1.0), (folders["old"], 1.0)]
    assert fitting(pair) is None
    (note,) = told(["anna", "old"], pair)
    assert "act at full weight, since old has no curve of forgetting" in note
    add_up(folders, "with-old", ["carl", "old"], [1.0, 1.0])
    assert "old and with-old have no curve" in unfitted([folders[name] for name in ("anna", "old", "with-old")])[0]
    assert told(["anna:1", "old"], pair) == [] == told(["old"], pair[1:])
    assert unfitted([folders["old"], folders["with-old"]]) == [] == unfitted([folders["anna"], folders["ben"]])
    add_up(folders, "both", ["anna", "ben"])
    assert "'anna' and 'both' hold the same request" in unfitted([folders["anna"], folders["both"]])[0]
    below = StackedOn(name="anna", fingerprint=fingerprint_of(folders["anna"]))
    change_manifest(folders["old"], lambda m: m.update(on_top_of=[below.model_dump()]))
    assert unfitted([folders["anna"], folders["old"]]) == []


def test_commands_say_at_which_weights_a_sum_acts_or_why_at_none(folders, tiny_base, tmp_path):
    store = AdapterStore(tmp_path / "store")
    for name in (*CURVES, "old"):
        store.import_(folders[name], name)

    def run(*words):
        done = CliRunner().invoke(main, ["adapters", *words, "--store", str(store.root)])
        assert done.exit_code == 0, done.output
        return done.stdout

    run("combine", "anna", "ben", "--name", "both")
    weights = fitted_weights([store.resolve("both"), store.resolve("carl")])
    spelled = f"act at both:{weights[0]:g}, carl:{weights[1]:g}, so that"
    assert spelled in run("combine", "both", "carl", "--name", "more")
    assert spelled in load(str(tiny_base), ["both", "carl"], store, "fp32", "cpu").notes[0]
    why = "act at full weight, since old has no curve"
    assert why in run("combine", "both", "old", "--name", "mixed")
    assert why not in run("combine", "both", "old", "--name", "plain", "--no-fit")
    assert why in run("check", "both", "old")
    assert why in load(str(tiny_base), ["both", "old"], store, "fp32", "cpu").notes[0]
