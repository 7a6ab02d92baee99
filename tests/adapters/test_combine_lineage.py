"""What is inside a combination, however deep, and how modules of two layouts add up."""

import torch
from safetensors.torch import load_file, save_file

from asu_lora.adapters.combine import combine
from asu_lora.adapters.manifest import read_manifest
from tests.support.lora_folders import give_manifest, save_lora

WEIGHTS = [1.0, 0.5, -0.3]


def made_of(tmp_path, tiny_base, names, on_top_of=()):
    """Adapters with manifests; ``on_top_of`` is {name: [(name below, weight), ...]}."""
    from asu_lora.adapters.manifest import StackedOn, fingerprint_of

    folders = {}
    for seed, name in enumerate(names):
        folder = save_lora(tiny_base, tmp_path / name, seed=seed + 1)
        below = [
            StackedOn(name=other, fingerprint=fingerprint_of(folders[other]), weight=weight)
            for other, weight in dict(on_top_of).get(name, ())
        ]
        folders[name] = give_manifest(folder, tiny_base, on_top_of=below)
    return folders


def combined(folders, parts, name, tmp_path):
    combine([folders[part] for part, _ in parts], [weight for _, weight in parts], tmp_path / name, name=name)
    folders[name] = tmp_path / name
    return tmp_path / name


def test_a_combination_of_a_combination_knows_what_is_inside(tiny_base, tmp_path):
    """abc = (ab) + c, where c was trained on a: nothing is missing, and no advice would count a twice."""
    from asu_lora.models.adapter_stack import missing_ground

    folders = made_of(tmp_path, tiny_base, "abc", {"c": [("a", 1.0)]})
    combined(folders, [("a", 1.0), ("b", 1.0)], "ab", tmp_path)
    abc = combined(folders, [("ab", 1.0), ("c", 1.0)], "abc", tmp_path)
    manifest = read_manifest(abc)
    assert manifest.on_top_of == []
    assert {entry.name: entry.weight for entry in manifest.method.contents()} == {"ab": 1, "a": 1, "b": 1, "c": 1}
    assert missing_ground([(abc, 1.0)]) == []
    deeper = combined(folders, [("abc", 1.0)], "deeper", tmp_path)
    assert read_manifest(deeper).on_top_of == [] and missing_ground([(deeper, 1.0)]) == []
    assert missing_ground([(folders["c"], 1.0), (deeper, 1.0)]) == []  # a is there, inside the inside


def test_what_is_inside_at_another_weight_is_asked_for_by_the_difference(tiny_base, tmp_path):
    from asu_lora.models.adapter_stack import missing_ground

    folders = made_of(tmp_path, tiny_base, "abc", {"c": [("a", 1.0)]})
    combined(folders, [("a", 0.5), ("b", 1.0)], "half", tmp_path)
    quarter = combined(folders, [("half", 0.5), ("c", 1.0)], "quarter", tmp_path)
    assert [(below.name, below.weight) for below in read_manifest(quarter).on_top_of] == [("a", 1.0)]
    (note,) = missing_ground([(quarter, 1.0)])
    assert "--adapter a:0.75." in note
    assert missing_ground([(quarter, 1.0), (folders["a"], 0.75)]) == []


def test_adapters_whose_modules_are_named_differently_add_up_as_one(tiny_base, tmp_path):

    one, two = (save_lora(tiny_base, tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    tensors = load_file(two / "adapter_model.safetensors")
    other = {
        f"_orig_mod.{key}".replace("model.model.layers", "model.model.language_model.layers"): tensor
        for key, tensor in tensors.items()
    }
    combine([one, two], [1.0, 1.0], tmp_path / "plain")
    save_file(other, two / "adapter_model.safetensors")
    combine([one, two], [1.0, 1.0], tmp_path / "renamed")
    plain, renamed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "renamed"))
    assert plain.keys() == renamed.keys() and all(torch.equal(plain[key], renamed[key]) for key in plain)
