"""Sums of adapters that are odd: of other layouts and sizes, held twice, without weight, with damaged curves."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from asu_lora.adapters.combine import combine
from asu_lora.adapters.fitted_weights import fitted_weights, fitting
from asu_lora.adapters.manifest import StackedOn, fingerprint_of, read_manifest
from asu_lora.adapters.overlap import overlap
from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from asu_lora.errors import AdapterError, SettingError
from asu_lora.models.adapter_stack import load, stack_adapters
from tests.support.lora_folders import change_manifest, give_manifest, logits_of, relative, save_lora, stacked
from tests.support.tiny_base import save_tiny_base

WEIGHTS = "adapter_model.safetensors"
CURVE = [{"weight": w, "forget_probability": p} for w, p in ((0, 0.9), (0.5, 0.6), (1, 0.2), (1.2, 0.1))]


@pytest.fixture(scope="module")
def made(tiny_base, tmp_path_factory):
    """{name: folder} of three adapters that were trained to add up."""
    folder = tmp_path_factory.mktemp("made")
    found = {}
    for seed, name in enumerate(("anna", "ben", "carl")):
        found[name] = give_manifest(save_lora(tiny_base, folder / name, seed), tiny_base)
        change_manifest(found[name], lambda m: m["method"]["details"].update(CURVE_AND_SETTINGS))
    return found


CURVE_AND_SETTINGS = {"forgetting_curve": CURVE, "keep_off": 0.5, "retain_dose": 4.0}


def copied(source, target):
    target.parent.mkdir(exist_ok=True)
    return shutil.copytree(source, target)


def without_base_name(folder):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
    return folder


def test_names_of_another_layout_are_compared_as_the_sum_adds_them(tiny_base, tmp_path):
    one = save_lora(tiny_base, tmp_path / "one")
    nested = copied(one, tmp_path / "nested")
    tensors = load_file(one / WEIGHTS)
    moved = {key.replace("model.layers", "model.language_model.layers"): value for key, value in tensors.items()}
    save_file(moved, nested / WEIGHTS, metadata={"format": "pt"})
    found = overlap([one, nested], [1.0, 1.0])
    assert found.pairs[0].cosine == pytest.approx(1.0) and found.sum_norm == pytest.approx(2 * found.norms[0])


def test_other_sizes_are_one_sentence_and_not_a_traceback(tiny_base, tmp_path):
    wide = save_tiny_base(tmp_path / "wide", hidden_size=128)
    both = [without_base_name(save_lora(base, tmp_path / base.name / "lora")) for base in (tiny_base, wide)]
    with pytest.raises(AdapterError, match="different sizes: they can't belong to one base"):
        overlap(both, [1.0, 1.0])


def test_folders_of_one_name_are_told_apart(tiny_base, tmp_path):
    both = [save_lora(tiny_base, tmp_path / str(seed) / "adapter", seed) for seed in (1, 2)]
    assert overlap(both, [1.0, 1.0]).names == tuple(map(str, both))


def test_an_adapter_of_no_weight_is_not_said_to_be_untrained(made):
    said = overlap([made["anna"], made["ben"]], [0.0, 1.0]).changes_nothing()
    assert said == "the adapter 'anna' changes nothing, because its weight is 0: leave it out."
    all_three = overlap(list(made.values()), [0.0, 0.0, 1.0]).changes_nothing()
    assert "(nor does 1 other)" in all_three


@pytest.fixture
def pair(made, tmp_path):
    """The sum of anna and ben."""
    combine([made["anna"], made["ben"]], [1.0, 1.0], tmp_path / "both", name="both")
    return tmp_path / "both"


def test_what_a_sum_holds_already_is_said_to_act_twice(made, pair):
    found = overlap([pair, made["anna"], made["carl"]], [1.0, 1.0, 1.0])
    assert "'both' and 'anna' hold the same adapter, which acts twice then: leave one of them out" in found.advice()
    assert [each.twice for each in found.pairs].count(True) == 1
    assert overlap([pair, made["anna"]], [1.0, -1.0]).advice() is None  # taken back


def test_a_sum_of_adapters_that_add_up_adds_up(made, pair):
    [found] = overlap([pair, made["carl"]], [1.0, 1.0]).pairs
    assert found.additive


def test_what_was_trained_on_top_of_an_adapter_knows_the_sum_that_holds_it(made, pair, tmp_path):
    above = copied(made["carl"], tmp_path / "above")
    below = StackedOn(name="anna", fingerprint=fingerprint_of(made["anna"])).model_dump()
    change_manifest(above, lambda m: m.update(on_top_of=[below]))
    [found] = overlap([pair, above], [1.0, 1.0]).pairs
    assert found.related


def test_an_adapter_named_twice_has_no_fitting_weight(made):
    with pytest.raises(AdapterError, match="'anna' and 'anna' hold the same request"):
        fitted_weights([made["anna"], made["ben"], made["anna"]])
    assert fitting([(made["anna"], 1.0), (made["anna"], 1.0)]) is None


@pytest.mark.parametrize("curves", [5, "x", [1, 2], {"f" * 64: CURVE}])
def test_damaged_curves_of_a_sum_are_not_handed_on(made, pair, tmp_path, curves):
    change_manifest(pair, lambda m: m["method"]["details"].update(forgetting_curves=curves))
    combine([pair, made["carl"]], [1.0, 1.0], tmp_path / "more", name="more")
    assert "forgetting_curves" not in read_manifest(tmp_path / "more").method.details
    with pytest.raises(AdapterError, match="'both' is damaged"):
        fitted_weights([pair, made["carl"]])


def test_a_number_that_no_float_holds_is_a_damaged_curve(made, tmp_path):
    folder = copied(made["anna"], tmp_path / "anna")
    curve = [*CURVE[:2], {"weight": 10**400, "forget_probability": 0.1}]
    change_manifest(folder, lambda m: m["method"]["details"].update(forgetting_curve=curve))
    with pytest.raises(AdapterError, match="'anna' is damaged"):
        fitted_weights([folder, made["ben"]])


def run(store, *words):
    return CliRunner().invoke(main, [*map(str, words), "--store", str(store.root)])


@pytest.fixture
def store(made, tmp_path):
    store = AdapterStore(tmp_path / "store")
    for name, folder in made.items():
        store.import_(folder, name)
    return store


def test_fit_refuses_a_weight_of_1_as_any_other(store):
    refused = run(store, "adapters", "combine", "anna:1", "ben", "--fit", "--name", "never")
    assert refused.exit_code == 2 and "--fit chooses the weights" in refused.stderr and "never" not in store.names()


def test_a_sum_writes_rows_as_its_parts_were_trained(made, tiny_base, tmp_path):
    folders = [copied(made[name], tmp_path / name) for name in ("anna", "ben")]
    for folder, length in zip(folders, (640, 320), strict=True):
        settings = {"max_length": length, "system_prompt": "Be brief.", "template_date": "2026-01-31"}
        change_manifest(folder, lambda m, settings=settings: m["training"].update(settings))
    combine(folders, [1.0, 1.0], tmp_path / "both", name="both")
    stacked = load(str(tiny_base), [(folder, 1.0) for folder in folders], tmp_path, "fp32", "cpu").rows
    assert load(str(tiny_base), [tmp_path / "both"], tmp_path, "fp32", "cpu").rows == stacked
    assert stacked.max_length == 640 and stacked.system_prompt == "Be brief."


def test_the_command_that_makes_a_sum_again_makes_the_same_sum(store):
    assert run(store, "adapters", "combine", "anna", "ben:1", "--name", "sum", "--rank", 3).exit_code == 0
    from asu_lora.cli.adapters.again import retrain_command

    less = retrain_command(store.get("sum"), ["anna"], store.root)
    assert "combine ben --no-fit" in less and not retrain_command(store.get("sum"), ["anna", "ben"], store.root)
    command = retrain_command(store.get("sum"), (), store.root)
    assert run(store, *command.split()[1:-2]).exit_code == 0, command
    one, other = (store.get(name).manifest.method.details for name in ("sum", "sum-again"))
    assert one["rank"] == other["rank"] == 3
    assert [source["weight"] for source in other["sources"]] == [1.0, 1.0]


def test_of_no_adapter_there_is_no_weight_to_fit():
    assert fitted_weights([]) == []  # the last request of a fitted history taken back


def test_several_at_full_weight_are_typed_so_that_none_is_fitted(store):
    from asu_lora.adapters.adapter_spec import as_typed
    from asu_lora.adapters.fitted_weights import weighed

    for wanted in ([("anna", 1.0), ("ben", 1.0)], [("anna", 0.5), ("ben", 1.0)], [("anna", 1.0)]):
        assert weighed(as_typed(wanted), store) == wanted
    assert as_typed([("anna", 1.0)]) == ["anna"]


@pytest.mark.parametrize("layers", [0, [0], 1])
def test_the_sum_of_adapters_of_one_layer_is_of_that_layer_alone(tiny_base, layers, tmp_path):
    """PEFT takes a bare number for a layer, and 0 is one."""
    one = save_lora(tiny_base, tmp_path / "one", layers_to_transform=layers)
    combine([one, one], [1.5, -0.5], tmp_path / "sum")
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    found = logits_of(stack_adapters(model, [(tmp_path / "sum", 1.0)]))
    assert relative(found, logits_of(stacked(tiny_base, [(one, 1.0)]))) < 1e-5


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("weight", [1e30, 1e39, -1e300])
def test_a_weight_that_makes_infinities_is_refused(made, rank, weight, tmp_path):
    with pytest.raises(SettingError, match="of the adapter 'ben' is too large: with its model.layers.0"):
        combine([made["anna"], made["ben"]], [1.0, weight], tmp_path / "sum", rank)
    assert not (tmp_path / "sum").exists()
