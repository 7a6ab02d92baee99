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


@pytest.mark.parametrize("rank", [5, 10, 14, 40])
def test_one_that_keeps_its_length_goes_as_far_along_every_adapter(three, tmp_path, rank):
    weights = [1.0, 0.5, 0.8]
    nearest = combine(three, weights, tmp_path / "near", rank=rank)
    report = combine(three, weights, tmp_path / "long", rank=rank, keep_length=True)
    wanted, near, made = exact_sum(three, weights), full_updates(tmp_path / "near"), full_updates(tmp_path / "long")
    for folder in three:
        own = full_updates(folder)
        along = sum((made[name] * own[name]).sum().item() for name in own)
        assert along == pytest.approx(sum((wanted[name] * own[name]).sum().item() for name in own), rel=1e-5)
    raised = [source["weight"] / weight for source, weight in zip(report.sources, weights, strict=True)]
    assert min(raised) > 1 and max(raised) - min(raised) > 1e-3 if rank < 15 else raised == [1, 1, 1]
    for module in report.modules:
        name = module.module
        error = torch.linalg.norm(made[name] - wanted[name]).item()
        assert error / module.norm == pytest.approx(module.relative_error, rel=1e-4, abs=1e-6)
        if rank < module.rank:  # it writes to what the nearest writes to
            both = torch.cat([near[name], made[name]], dim=1)
            assert int(torch.linalg.matrix_rank(both, rtol=1e-5)) == module.kept_rank
    assert report.relative_error >= nearest.relative_error


def test_adapters_that_a_rank_cannot_tell_apart_are_raised_alike(three, tmp_path):
    """With one direction a module, what is cut off one can't be given back without the others."""
    weights = [1.0, 0.5, -0.3]
    report = combine(three, weights, tmp_path / "long", rank=1, keep_length=True)
    wanted, made = exact_sum(three, weights), full_updates(tmp_path / "long")
    along = sum((made[name] * wanted[name]).sum().item() for name in wanted)
    assert along == pytest.approx(sum(update.pow(2).sum().item() for update in wanted.values()), rel=1e-5)
    raised = [source["weight"] / weight for source, weight in zip(report.sources, weights, strict=True)]
    assert raised == pytest.approx([raised[0]] * 3) and raised[0] > 1.01


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
    assert len({file.stat().st_mode for file in (tmp_path / "abc").iterdir()}) == 1
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
