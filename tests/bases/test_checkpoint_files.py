"""Which files of a folder count: for fingerprint, loading and merging exactly those that transformers loads."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from asu_lora.bases.checkpoint_files import INDEX_NAME, SINGLE_NAME, checkpoint_files, read_checkpoint
from asu_lora.bases.fingerprint import weights_fingerprint
from asu_lora.bases.source import resolve_base
from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader
from asu_lora.merging.merge import merge
from asu_lora.models.loading import load_base
from tests.support.checkpoint_copies import copy, rewrite_json
from tests.support.lora_folders import give_manifest, logits_of, relative, save_lora, stacked
from tests.support.tiny_base import save_tiny_base


@pytest.fixture(scope="module")
def other_base(tmp_path_factory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("bases") / "other", seed=7)


def shards_of(base: Path, folder: Path) -> Path:
    """The same weights in several files with an index."""
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="100KB")
    for path in base.iterdir():
        if not (folder / path.name).exists() and path.suffix != ".safetensors":
            shutil.copy(path, folder / path.name)
    return folder


def stale_shards(base, other, folder):
    shards_of(other, folder)
    shutil.copy(base / SINGLE_NAME, folder / SINGLE_NAME)


def second_copy(base, other, folder):
    copy(base, folder)
    save_file(
        {f"layers.{name}": t for name, t in load_file(other / SINGLE_NAME).items()}, folder / "consolidated.safetensors"
    )


def variant(base, other, folder):
    copy(base, folder)
    shutil.copy(other / SINGLE_NAME, folder / "model.fp16.safetensors")


def pickle_beside(base, other, folder):
    copy(base, folder)
    torch.save(load_file(other / SINGLE_NAME), folder / "pytorch_model.bin")


def a_file_of_another_name(base, other, folder):
    copy(other, folder)
    shutil.copy(base / SINGLE_NAME, folder / "weights-v2.safetensors")
    rewrite_json(folder / "config.json", lambda config: config.update(transformers_weights="weights-v2.safetensors"))


def shards_in_a_subfolder(base, other, folder):
    shards_of(base, folder)
    (folder / "sub").mkdir()
    for shard in list(folder.glob("*.safetensors")):
        shutil.move(shard, folder / "sub" / shard.name)
    rewrite_json(
        folder / INDEX_NAME,
        lambda index: index.update(weight_map={k: f"sub/{v}" for k, v in index["weight_map"].items()}),
    )


def a_tensor_twice(base, other, folder):
    """In two shards: the later file's is loaded, whatever the index says."""
    shards_of(base, folder)
    shards = sorted(folder.glob("*.safetensors"))
    name = next(iter(load_file(shards[-1])))
    save_file(
        load_file(shards[0]) | {name: torch.randn(load_file(shards[-1])[name].shape)}, shards[0], {"format": "pt"}
    )
    rewrite_json(folder / INDEX_NAME, lambda index: index["weight_map"].update({name: shards[0].name}))


def an_index_that_says_too_much(base, other, folder):
    """Names of tensors that no shard holds don't matter, as long as every parameter gets its numbers."""
    shards_of(base, folder)
    first = sorted(folder.glob("*.safetensors"))[0].name
    rewrite_json(folder / INDEX_NAME, lambda index: index["weight_map"].update({"model.old.weight": first}))


def a_hub_snapshot(base, other, folder):
    """Links into a folder of blobs, as the hub's cache lays a model out."""
    blobs = folder.parent / f"{folder.name}-blobs"
    copy(base, blobs)
    folder.mkdir()
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(os.path.relpath(path, folder))


LAID_OUT = [
    stale_shards,
    second_copy,
    variant,
    pickle_beside,
    a_file_of_another_name,
    shards_in_a_subfolder,
    a_tensor_twice,
    an_index_that_says_too_much,
    a_hub_snapshot,
]


@pytest.mark.parametrize("lay_out", LAID_OUT, ids=lambda f: f.__name__)
def test_fingerprint_and_merge_are_of_the_weights_that_are_loaded(tiny_base, other_base, tmp_path, lay_out):
    folder = tmp_path / "base"
    lay_out(tiny_base, other_base, folder)
    with torch.no_grad():
        assert torch.equal(logits_of(load_base(str(folder), "fp32", "cpu").model), logits_of(tiny_base))  # the premise
    if lay_out is not a_tensor_twice:  # that one's fingerprint is of the tensor that is loaded, checked below
        assert weights_fingerprint(folder) == weights_fingerprint(tiny_base)
    lora = give_manifest(save_lora(tiny_base, tmp_path / "lora"), tiny_base)
    merge(folder, [(lora, 1.0)], tmp_path / "out", "fp32")
    assert relative(logits_of(tmp_path / "out"), logits_of(stacked(tiny_base, [(lora, 1.0)]))) < 1e-5
    assert "transformers_weights" not in json.loads((tmp_path / "out" / "config.json").read_text())
    with LazyTensorReader(folder) as reader:
        assert set(reader.tensors) == set(load_file(tiny_base / SINGLE_NAME))


def test_a_tensor_in_two_shards_is_fingerprinted_as_it_is_loaded(tiny_base, other_base, tmp_path):
    a_tensor_twice(tiny_base, other_base, tmp_path / "base")
    assert weights_fingerprint(tmp_path / "base") == weights_fingerprint(tiny_base)


def test_an_adapter_of_an_earlier_program_still_goes_with_a_folder_of_two_copies(tiny_base, other_base, tmp_path):
    """It was recorded with a fingerprint over every safetensors file."""
    folder = tmp_path / "base"
    second_copy(tiny_base, other_base, folder)
    tensors = load_file(folder / SINGLE_NAME) | load_file(folder / "consolidated.safetensors")
    copy(tiny_base, tmp_path / "all")
    save_file(tensors, tmp_path / "all" / SINGLE_NAME, {"format": "pt"})
    recorded = weights_fingerprint(tmp_path / "all")
    assert recorded != weights_fingerprint(folder)
    assert resolve_base(str(folder)).has_fingerprint(recorded)
    assert not resolve_base(str(tiny_base)).has_fingerprint(recorded)
    assert not resolve_base(str(folder)).has_fingerprint("0" * 64)


def test_the_files_are_listed_without_reading_a_weight(tiny_base, tmp_path):
    folder = shards_of(tiny_base, tmp_path / "base")
    assert checkpoint_files(folder) == sorted(folder.glob("*.safetensors"))
    assert {stored.file for stored in read_checkpoint(folder).values()} == set(folder.glob("*.safetensors"))


@pytest.mark.parametrize("blocked", ["no home", "read-only", "a file", "nonsense kept"])
def test_a_cache_that_cannot_be_used_is_done_without(tiny_base, tmp_path, monkeypatch, blocked):
    wanted = weights_fingerprint(tiny_base)
    cache = tmp_path / "cache"
    if blocked == "no home":
        cache = Path("/proc/none/cache")
    elif blocked == "a file":
        cache.write_text("")
    elif blocked == "nonsense kept":
        monkeypatch.setenv("ASU_LORA_CACHE", str(cache))
        weights_fingerprint(tiny_base)
        for kept in (cache / "fingerprints").iterdir():
            kept.write_text("cut")
    else:
        cache.mkdir()
        cache.chmod(0o500)
    monkeypatch.setenv("ASU_LORA_CACHE", str(cache))
    assert weights_fingerprint(tiny_base) == wanted
    assert resolve_base(str(tiny_base)).fingerprint() == wanted


def test_without_any_home_nothing_is_made_in_the_working_folder(tiny_base, tmp_path, monkeypatch):
    """platformdirs answers with a bare '~' where there is no home to put in its place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASU_LORA_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: "~/.cache/asu-lora")
    weights_fingerprint(tiny_base)
    assert not list(tmp_path.iterdir())
