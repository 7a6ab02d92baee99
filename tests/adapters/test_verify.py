"""Broken adapters: what verification finds, and that none of them is imported."""

import json
import random

import numpy
import pytest

from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.adapters.verify import verify_adapter
from asu_lora.errors import AdapterError
from asu_lora.safetensors_header import not_finite, read_header
from tests.support.adapter_folders import (
    MODULES,
    entries,
    factors,
    fill,
    flip_byte,
    in_memory,
    refused,
    store_of_one,
    tar_of,
    truncate,
    write_lora,
)

tmp_path, store = in_memory, store_of_one


def nan(folder):
    tensors = factors()
    tensors[f"{MODULES[1]}.lora_B.weight"][3, 2] = numpy.nan
    write_lora(folder, tensors=tensors)


def infinity_in_half(folder):
    tensors = {name: tensor.astype("float16") for name, tensor in factors().items()}
    tensors[f"{MODULES[0]}.lora_A.weight"][0, 0] = -numpy.inf
    write_lora(folder, tensors=tensors)


def wrong_rank(folder):
    write_lora(folder, tensors=factors(rank=3))


def shapes_that_do_not_meet(folder):
    write_lora(folder, tensors=factors() | {f"{MODULES[0]}.lora_B.weight": numpy.zeros((8, 5), "float32")})


def half_a_pair(folder):
    tensors = factors()
    del tensors[f"{MODULES[2]}.lora_B.weight"]
    write_lora(folder, tensors=tensors)


def pickle_weights(folder):
    (folder / WEIGHTS_NAME).unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04\x95")


def pickle_called_safetensors(folder):
    import pickle

    (folder / WEIGHTS_NAME).write_bytes(pickle.dumps({"lora_A": [1.0] * 100}))


def changed_byte(folder):
    flip_byte(folder / WEIGHTS_NAME, -2)


BROKEN = {
    nan: "self_attn.v_proj.lora_B.weight holds NaN or infinity",
    infinity_in_half: "self_attn.q_proj.lora_A.weight holds NaN or infinity",
    wrong_rank: "has rank 3, and the config says 4",
    shapes_that_do_not_meet: "don't fit together",
    half_a_pair: "has no lora_B beside it",
    lambda folder: write_lora(folder, tensors={"other": numpy.zeros(3, "float32")}): "holds no LoRA weights",
    lambda folder: truncate(folder / WEIGHTS_NAME): "cut off or damaged",
    lambda folder: truncate(folder / WEIGHTS_NAME, 1): "cut off or damaged",
    lambda folder: (folder / WEIGHTS_NAME).write_bytes(b""): "no whole safetensors file",
    lambda folder: flip_byte(folder / WEIGHTS_NAME, 12): "has no lora_B beside it",
    pickle_weights: "adapter_model.bin.* a pickle",
    pickle_called_safetensors: "safetensors file",
    lambda folder: write_lora(folder, peft_type="IA3"): "only LoRA is kept here",
    lambda folder: write_lora(folder, r=0): "gives the rank 0",
    lambda folder: write_lora(folder, rank_pattern={"q_proj": 2}): "the config says 2",
    lambda folder: write_lora(folder, rank_pattern={"(": 2}): "makes no sense",
    lambda folder: (folder / "adapter_config.json").write_text("[]"): "describes no adapter",
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: BROKEN[damage][:30])
def test_a_broken_adapter_is_refused(store, tmp_path, damage, packed):
    source = write_lora(tmp_path / "a")
    damage(source)
    assert not verify_adapter(source).ok
    refused(store, tar_of(tmp_path / "a.tar.gz", entries(source)) if packed else source, BROKEN[damage])


@pytest.mark.parametrize("pattern", ["^model.layers.1.self_attn.q_proj", r"layers\.1\..*q_proj", "1.self_attn.q_proj"])
def test_a_pattern_of_ranks_fits_as_peft_fits_it(store, tmp_path, pattern):
    tensors = factors() | {
        name: tensor for name, tensor in factors(rank=2).items() if "layers.1.self_attn.q_proj" in name
    }
    source = write_lora(tmp_path / "a", tensors=tensors, rank_pattern={pattern: 2})
    assert verify_adapter(source).problems == []
    assert store.import_(source, "taken").state == "imported"


def test_one_changed_byte_anywhere_is_found_by_the_checksums(tmp_path):
    folder, dice = fill(tmp_path / "a", "a"), random.Random(0)
    assert verify_adapter(folder).ok
    for name in ("adapter_config.json", WEIGHTS_NAME, "README.md"):
        content = (folder / name).read_bytes()
        for position in dice.sample(range(len(content)), 15):
            flip_byte(folder / name, position)
            assert not verify_adapter(folder).ok, (name, position)
            (folder / name).write_bytes(content)
    assert verify_adapter(folder).ok


def test_numbers_of_types_that_numpy_does_not_know(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    for number, dtype in enumerate((torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64)):
        good = torch.randn(40, 50).to(dtype)
        largest = torch.tensor([torch.finfo(dtype).max] * 3, dtype=torch.float64).to(dtype)
        bad = good.clone().float()
        bad[39, 49] = float("nan")
        path = tmp_path / f"{number}.safetensors"
        save_file({"good": good, "largest": largest, "bad": bad.to(dtype), "whole": torch.arange(9)}, path)
        assert list(not_finite(path, read_header(path))) == ["bad"]


def test_a_header_that_lies_is_refused(tmp_path):
    path = tmp_path / WEIGHTS_NAME
    for header in (
        {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
        {"a": {"dtype": "XX", "shape": [2], "data_offsets": [0, 8]}},
        {"a": 3},
        [],
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
    ):
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
        with pytest.raises(AdapterError, match="safetensors"):
            read_header(path)


def test_the_base_is_compared_by_its_fingerprint(store):
    assert store.verify("kept", "ba5e" * 16).ok
    report = store.verify("kept", "0" * 64)
    assert "other weights, whatever their name" in report.problems[0]
    write_lora(store.root / "plain")
    assert store.verify("plain", "0" * 64).ok, "nothing is known, so nothing contradicts"
