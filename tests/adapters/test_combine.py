"""Several adapters as one: the same logits as the stack in plain PEFT, or the error that was announced."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from asu_lora.adapters.combine import combine
from asu_lora.adapters.lora_folder import read_lora
from asu_lora.adapters.manifest import read_manifest
from asu_lora.errors import AdapterError, SettingError
from tests.support.lora_folders import give_manifest, logits_of, save_lora, save_tiny_gpt2, stacked
from tests.support.tiny_base import save_tiny_base

WEIGHTS = [1.0, 0.5, -0.3]


@pytest.fixture(scope="module")
def three(tiny_base, tmp_path_factory):
    """Adapters that share some modules, with different ranks and ways of scaling."""
    folder = tmp_path_factory.mktemp("loras")
    return [
        save_lora(tiny_base, folder / "a", seed=1),
        save_lora(tiny_base, folder / "b", seed=2, r=9, use_rslora=True, target_modules=["q_proj", "down_proj"]),
        save_lora(
            tiny_base,
            folder / "c",
            seed=3,
            target_modules=["q_proj", "gate_proj"],
            rank_pattern={"layers.1.self_attn.q_proj": 2},
            alpha_pattern={"gate_proj": 3},
        ),
    ]


def full_updates(folder):
    """Module -> scaling B A as a full matrix, in fp64."""
    lora = read_lora(folder)
    factors = {name: lora.factors(name) for name in lora.modules}
    return {name: lora.modules[name].scaling * (b.double() @ a.double()) for name, (a, b) in factors.items()}


def exact_sum(folders, weights):
    total = {}
    for folder, weight in zip(folders, weights, strict=True):
        for name, update in full_updates(folder).items():
            total[name] = total.get(name, 0) + weight * update
    return total


def test_exactly_combined_is_the_stack(tiny_base, three, tmp_path):
    report = combine(three, WEIGHTS, tmp_path / "abc")
    one = stacked(tiny_base, [(tmp_path / "abc", 1.0)])
    stack = logits_of(stacked(tiny_base, list(zip(three, WEIGHTS, strict=True))))
    assert (stack - logits_of(tiny_base)).abs().max() > 0.05  # there is something to get wrong
    assert (logits_of(one) - stack).abs().max() < 1e-4
    scalings = {layer.scaling["0"] for layer in one.modules() if hasattr(layer, "lora_A") and layer.lora_A}
    assert scalings == {1.0}
    assert report.rank == 4 + 9 + 4
    assert report.relative_error == 0
    ranks = {module.module: module.kept_rank for module in report.modules}
    assert ranks["model.layers.1.self_attn.q_proj"] == 4 + 9 + 2
    assert ranks["model.layers.0.mlp.gate_proj"] == 4


@pytest.mark.parametrize("rank", [1, 5, 14])
def test_truncated_has_the_error_it_announces_and_none_is_smaller(three, tmp_path, rank):
    report = combine(three, WEIGHTS, tmp_path / "abc", rank=rank)
    wanted, made = exact_sum(three, WEIGHTS), full_updates(tmp_path / "abc")
    assert set(made) == set(wanted)
    squares = 0.0
    for module in report.modules:
        error = torch.linalg.norm(made[module.module] - wanted[module.module])
        norm = torch.linalg.norm(wanted[module.module])
        squares += error.item() ** 2
        assert module.kept_rank == min(rank, module.rank)
        assert (error / norm).item() == pytest.approx(module.relative_error, rel=1e-4, abs=1e-6)
        assert norm.item() == pytest.approx(module.norm, rel=1e-6)
        if rank < module.rank:
            sigma = torch.linalg.svdvals(wanted[module.module])
            assert module.relative_error == pytest.approx((sigma[rank:].norm() / norm).item(), rel=1e-6)
            assert module.relative_error > 0
    total = math.sqrt(sum(torch.linalg.norm(update).item() ** 2 for update in wanted.values()))
    assert report.relative_error == pytest.approx(math.sqrt(squares) / total, rel=1e-4)


def test_truncation_loads_in_plain_peft_and_tends_to_the_stack(tiny_base, three, tmp_path):
    stack = logits_of(stacked(tiny_base, list(zip(three, WEIGHTS, strict=True))))
    distances = []
    for rank in (1, 8, 17):
        combine(three, WEIGHTS, tmp_path / str(rank), rank=rank)
        distances.append((logits_of(stacked(tiny_base, [(tmp_path / str(rank), 1.0)])) - stack).norm().item())
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-3


def test_one_combined_in_sixteen_bit_is_summed_in_thirty_two(tiny_base, three, tmp_path):
    """bf16 factors are what they are, but folding weights into them must not round again."""
    half = shutil.copytree(three[1], tmp_path / "half")
    tensors = load_file(half / "adapter_model.safetensors")
    tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(tensors, half / "adapter_model.safetensors")
    combine([half, three[0]], [0.7, 1.0], tmp_path / "sum")
    stack = logits_of(stacked(tiny_base, [(half, 0.7), (three[0], 1.0)]))
    assert (logits_of(stacked(tiny_base, [(tmp_path / "sum", 1.0)])) - stack).abs().max() < 1e-4


def test_gpt2_with_its_transposed_weights(tmp_path):
    base = save_tiny_gpt2(tmp_path / "gpt2")
    pair = [
        save_lora(base, tmp_path / name, seed=seed, target_modules=names, fan_in_fan_out=True)
        for seed, (name, names) in enumerate([("a", ["c_attn", "c_proj"]), ("b", ["c_attn", "c_fc"])])
    ]
    combine(pair, [1.0, 2.0], tmp_path / "ab")
    stack = logits_of(stacked(base, [(pair[0], 1.0), (pair[1], 2.0)]))
    assert (stack - logits_of(base)).abs().max() > 0.05
    assert (logits_of(stacked(base, [(tmp_path / "ab", 1.0)])) - stack).abs().max() < 1e-4


def test_embeddings(tmp_path):
    base = save_tiny_base(tmp_path / "untied", tie_word_embeddings=False)
    pair = [
        save_lora(base, tmp_path / name, seed=seed, target_modules=["embed_tokens", "q_proj"])
        for seed, name in enumerate("ab")
    ]
    combine(pair, [1.0, -1.5], tmp_path / "ab")
    stack = logits_of(stacked(base, [(pair[0], 1.0), (pair[1], -1.5)]))
    assert (stack - logits_of(base)).abs().max() > 0.05
    assert (logits_of(stacked(base, [(tmp_path / "ab", 1.0)])) - stack).abs().max() < 1e-4


def test_the_short_list_of_modules_is_kept_where_it_says_the_same(tiny_base, three, tmp_path):
    other = save_lora(tiny_base, tmp_path / "other", seed=5)
    combine([three[0], other], [1.0, 1.0], tmp_path / "same")
    config = json.loads((tmp_path / "same" / "adapter_config.json").read_text())
    assert (config["target_modules"], config["r"], config["lora_alpha"]) == (["q_proj", "v_proj"], 8, 8)
    assert config["base_model_name_or_path"] == str(tiny_base)


def test_manifest_of_the_sum(tiny_base, three, tmp_path):
    from asu_lora.adapters.manifest import StackedOn

    folders = [shutil.copytree(folder, tmp_path / folder.name) for folder in three]
    give_manifest(folders[0], tiny_base)
    first = read_manifest(folders[0]).fingerprint
    below = [StackedOn(name="a", fingerprint=first), StackedOn(name="older", fingerprint="f" * 64, weight=0.5)]
    give_manifest(folders[1], tiny_base, on_top_of=below)
    combine(folders, WEIGHTS, tmp_path / "abc", rank=6)
    manifest = read_manifest(tmp_path / "abc")
    assert manifest.method.objective == "combined"
    assert [(source["name"], source["weight"]) for source in manifest.method.details["sources"]] == [
        ("a", 1.0),
        ("b", 0.5),
        ("c", -0.3),
    ]
    assert manifest.method.details["sources"][0]["fingerprint"] == first
    assert manifest.method.details["without_manifest"] == ["c"]
    request = manifest.request
    assert (request.forget_rows, request.forget_tokens, request.retain_rows) == (6, 60, 10)
    assert [entry.name for entry in manifest.on_top_of] == ["older"]  # 'a' is inside now
    assert manifest.base == read_manifest(folders[0]).base
    assert set(manifest.files) == {"adapter_model.safetensors", "adapter_config.json", "README.md"}


def test_mixed_precisions_are_said_to_be_mixed(tiny_base, three, tmp_path):
    folders = [shutil.copytree(folder, tmp_path / folder.name) for folder in three[:2]]
    give_manifest(folders[0], tiny_base, precision="nf4")
    give_manifest(folders[1], tiny_base, precision="bf16")
    combine(folders, [1, 1], tmp_path / "ab")
    assert read_manifest(tmp_path / "ab").base.precision == "mixed"


@pytest.mark.parametrize(
    ("weights", "rank", "said"),
    [
        ([1.0, 1.0], None, "3 adapters and 2 weights"),
        ([1.0, float("inf"), 1.0], None, "weight inf"),
        ([1.0, 0.0, 1.0], None, "weight 0.0"),
        ([1.0, 1.0, 1.0], 0, "rank must be 1 or more"),
    ],
)
def test_settings_that_make_no_sense(three, tmp_path, weights, rank, said):
    with pytest.raises(SettingError, match=said):
        combine(three, weights, tmp_path / "out", rank)
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(three, tmp_path):
    with pytest.raises(SettingError, match="exists already"):
        combine(three[:2], [1, 1], three[2])
    assert read_lora(three[2]).modules


def test_two_bases_are_refused_and_nothing_is_left(tiny_base, three, tmp_path):
    wider = save_tiny_base(tmp_path / "wider", seed=1, hidden_size=32)
    stranger = save_lora(wider, tmp_path / "stranger")
    with pytest.raises(AdapterError, match="belongs to the base"):
        combine([three[0], stranger], [1, 1], tmp_path / "out")
    config = json.loads((stranger / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tiny_base)
    (stranger / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="different sizes"):
        combine([three[0], stranger], [1, 1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_source_leaves_nothing(three, tmp_path):
    broken = shutil.copytree(three[2], tmp_path / "broken")
    tensors = load_file(broken / "adapter_model.safetensors")
    next(reversed(tensors.values()))[0, 0] = float("inf")
    save_file(tensors, broken / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="NaN or infinities"):
        combine([three[0], broken], [1, 1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def run(*arguments):
    from click.testing import CliRunner

    from asu_lora.cli import main

    return CliRunner().invoke(main, ["adapters", "combine", *map(str, arguments)])


@pytest.fixture
def store(three, tiny_base, tmp_path):
    from asu_lora.adapters.store import AdapterStore

    store = AdapterStore(tmp_path / "store")
    for folder in three:
        copy = shutil.copytree(folder, tmp_path / "work" / folder.name)
        store.import_(give_manifest(copy, tiny_base), folder.name)
    return store


def test_command_combines_into_the_store(store, three, tmp_path):
    done = run("a", "b:0.5", "c:-0.3", "--name", "abc", "--rank", 3, "--store", store.root, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    expected = combine(three, WEIGHTS, tmp_path / "again", rank=3)
    assert said["relative_error"] == pytest.approx(expected.relative_error, rel=1e-6)
    assert [source["weight"] for source in said["sources"]] == WEIGHTS
    assert store.get("abc").state == "ready"
    assert store.get("abc").manifest.name == "abc"
    assert store.verify("abc", None).ok


def test_command_prints_every_modules_error(store):
    done = run("a", "b", "--name", "ab", "--rank", 2, "--store", store.root)
    assert done.exit_code == 0, done.output
    for module in store.get("b").adapter_config["target_modules"]:
        assert f"{module}" in done.output
    assert "relative error of 0." in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "nobody"], "no adapter nobody"),
        (["a", "b:much"], "'much' is no number"),
        (["a", "b:0"], "weight 0.0"),
        (["a", "b", "--rank", "0"], "0 is not in the range"),
    ],
)
def test_command_says_what_is_wrong_and_stores_nothing(store, arguments, said):
    done = run(*arguments, "--name", "new", "--store", store.root)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert store.names() == ["a", "b", "c"]


def test_command_takes_no_name_twice(store):
    done = run("a", "b", "--name", "c", "--store", store.root)
    assert done.exit_code == 2
    assert "already has an adapter c" in done.stderr
    assert store.names() == ["a", "b", "c"]


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
    from safetensors.torch import load_file, save_file

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
