"""Reading PEFT LoRA folders: what is understood agrees with PEFT, everything else is refused by name."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from asu_lora.adapters.lora_folder import PREFIX, match_pattern, read_lora
from asu_lora.adapters.one_base import refuse_different_bases
from asu_lora.errors import AdapterError
from tests.support.lora_folders import give_manifest, save_lora, stacked

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def plain(tiny_base, tmp_path_factory):
    return save_lora(tiny_base, tmp_path_factory.mktemp("loras") / "plain")


@pytest.fixture
def copy(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "copy")


def change_config(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "r": 9, "lora_alpha": 5},
        {
            "target_modules": ["q_proj", "down_proj", "lm_head"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 6},
            "alpha_pattern": {"down_proj": 3, r".*\.0\.self_attn\.q_proj": 1},
        },
        {"use_rslora": True, "rank_pattern": {"^model.layers.0.self_attn.v_proj": 16, "v_proj": 2}},
    ],
)
def test_factors_and_scalings_are_those_of_peft(tiny_base, tmp_path, settings):
    folder = save_lora(tiny_base, tmp_path / "a", **settings)
    lora = read_lora(folder)
    model = stacked(tiny_base, [(folder, 1.0)])
    layers = {
        name.removeprefix(PREFIX): layer
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and layer.lora_A
    }
    assert set(lora.modules) == set(layers)
    for name, layer in layers.items():
        a, b = lora.factors(name)
        update = lora.modules[name].scaling * b @ a
        torch.testing.assert_close(update, layer.get_delta_weight("0"), rtol=1e-6, atol=1e-8)
        assert lora.modules[name].rank == layer.r["0"]


def test_an_embedding_is_read_as_one(tiny_base, tmp_path):
    lora = read_lora(save_lora(tiny_base, tmp_path / "a", target_modules=["embed_tokens"]))
    module = lora.modules["model.embed_tokens"]
    assert (module.embedding, module.in_features, module.out_features) == (True, 320, 64)


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.q_proj", "lm_head"])
@pytest.mark.parametrize(
    "patterns",
    [
        ["q_proj"],
        ["layers.1.self_attn.q_proj"],
        [r"^model\.layers\.1\.self_attn\.q_proj"],
        [r"layers\.\d+\..*"],
        ["head"],
    ],
)
def test_patterns_match_as_in_peft(patterns, name):
    from peft.utils.other import get_pattern_key

    theirs = get_pattern_key(patterns, name)
    assert match_pattern(patterns, name) == (theirs if theirs in patterns else None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "'pissa'"),
    ],
)
def test_more_than_a_lora_is_refused_by_name(tiny_base, tmp_path, settings, said):
    folder = save_lora(tiny_base, tmp_path / "special", **settings)
    with pytest.raises(AdapterError, match="special'? can't be (added up or merged|used)") as refused:
        read_lora(folder)
    assert said in str(refused.value)


def test_an_unknown_tensor_is_refused(copy):
    tensors = load_file(copy / WEIGHTS)
    save_file(tensors | {PREFIX + "model.norm.weight": torch.ones(64)}, copy / WEIGHTS)
    with pytest.raises(AdapterError, match=r"carries the tensor .*model\.norm\.weight"):
        read_lora(copy)


def test_a_pickle_is_refused_and_never_opened(copy, tmp_path):
    marker = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    (copy / WEIGHTS).unlink()
    (copy / "adapter_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(AdapterError, match=r"adapter_model\.bin is a pickle"):
        read_lora(copy)
    assert not marker.exists()


def test_a_truncated_file_is_refused(copy):
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(AdapterError, match="cut off"):
        read_lora(copy)


def test_not_a_number_is_refused(copy):
    tensors = load_file(copy / WEIGHTS)
    key = next(key for key in tensors if "lora_B" in key)
    tensors[key][0, 0] = float("nan")
    save_file(tensors, copy / WEIGHTS)
    module = key.removeprefix(PREFIX).removesuffix(".lora_B.weight")
    with pytest.raises(AdapterError, match="NaN or infinities"):
        read_lora(copy).factors(module)


def test_wrong_shapes_are_refused(copy):
    change_config(copy, r=5)
    with pytest.raises(AdapterError, match=r"\[4, 64\].*don't fit the rank 5"):
        read_lora(copy)


def test_half_a_module_is_refused(copy):
    tensors = load_file(copy / WEIGHTS)
    key = next(key for key in tensors if "lora_B" in key)
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, copy / WEIGHTS)
    with pytest.raises(AdapterError, match=r"incomplete: .*lora_B\.weight is missing"):
        read_lora(copy)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"lora_alpha": "much"}, "alpha 'much'"),
        ({"rank_pattern": {"(": 3}}, "no regular expression"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(copy, fields, said):
    change_config(copy, **fields)
    with pytest.raises(AdapterError) as refused:
        read_lora(copy)
    assert said in str(refused.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(AdapterError, match="no adapter folder"):
        read_lora(tmp_path / "nothing")


def test_bases_are_told_apart_by_fingerprint_then_by_name(plain, tiny_base, tmp_path):
    folders = {name: shutil.copytree(plain, tmp_path / name) for name in ("a", "b", "c", "d")}
    give_manifest(folders["a"], tiny_base, fingerprint="1" * 64)
    give_manifest(folders["b"], tmp_path / "renamed", fingerprint="1" * 64)
    give_manifest(folders["c"], tiny_base, fingerprint="2" * 64)
    change_config(folders["d"], base_model_name_or_path="someone/else")
    loras = {name: read_lora(folder) for name, folder in folders.items()}
    refuse_different_bases([loras["a"], loras["b"]])
    with pytest.raises(AdapterError, match="shares its name but not its weights"):
        refuse_different_bases([loras["a"], loras["c"]])
    with pytest.raises(AdapterError, match="someone/else"):
        refuse_different_bases([loras["a"], loras["d"]])
