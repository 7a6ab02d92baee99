"""Tiny LoRA folders and archives, whole and broken, made with safetensors alone: quick, without torch."""

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from asu_lora.adapters.manifest import BaseRecord, Manifest, MethodRecord, RequestRecord, StackedOn, write_manifest
from asu_lora.adapters.model_card import write_model_card
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AsuLoraError

RANK, WIDTH = 4, 8
MODULES = [f"base_model.model.model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in "qv"]


def factors(seed: int = 0, rank: int = RANK) -> dict[str, numpy.ndarray]:
    """A (rank, in) and B (out, rank) of every module, random."""
    random = numpy.random.default_rng(seed)
    shapes = {
        f"{module}.lora_{side}.weight": shape
        for module in MODULES
        for side, shape in (("A", (rank, WIDTH)), ("B", (WIDTH, rank)))
    }
    return {name: random.standard_normal(shape, dtype="float32") for name, shape in shapes.items()}


def write_lora(folder: Path, seed: int = 0, tensors: dict | None = None, **config) -> Path:
    """A plain PEFT folder: config and weights, nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "org/base",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    save_file(tensors if tensors is not None else factors(seed), folder / "adapter_model.safetensors")
    return folder


def manifest_for(name: str, on_top_of: list[StackedOn] = (), **fields) -> Manifest:
    record = {
        "base": BaseRecord(id="org/base", fingerprint="ba5e" * 16, precision="nf4"),
        "method": MethodRecord(
            objective="asu",
            retain_loss="kl",
            forget_coeff=0.3,
            retain_coeff=1.0,
            tau=2.0,
            tau_chosen_by="auto",
            tau_curve=[{"tau": 1.8, "rouge": 0.7}, {"tau": 2.0, "rouge": 0.1}],
        ),
        "request": RequestRecord(
            fingerprint="hmac-sha256:" + "f0" * 32,
            forget_rows=20,
            forget_tokens=400,
            retain_rows=80,
            retain_tokens=1500,
            retain_source="file",
        ),
        "figures": {
            "before": {"forget_probability": 0.991, "retain_rouge": 0.97, "empty_answers": 0},
            "after": {"forget_probability": 0.082, "retain_rouge": 0.95, "empty_answers": 1},
        },
        "lora": {"rank": RANK, "alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        "training": {"lr": 1e-3, "epochs": 6},
    }
    return Manifest(name=name, on_top_of=list(on_top_of), **record | fields)


def fill(folder: Path, name: str, seed: int = 0, on_top_of: list[StackedOn] = ()) -> Path:
    """What training leaves in a staging folder: weights, config, card and manifest."""
    write_lora(folder, seed)
    manifest = manifest_for(name, on_top_of)
    write_model_card(folder, manifest)
    write_manifest(folder, manifest)
    return folder


def add(store: AdapterStore, name: str, seed: int = 0, on_top_of: list[StackedOn] = (), replace=False):
    with store.stage(name, replace=replace) as folder:
        fill(folder, name, seed, on_top_of)
    return store.get(name)


def on(store: AdapterStore, name: str, weight: float = 1.0) -> StackedOn:
    return StackedOn(name=name, fingerprint=store.get(name).fingerprint, weight=weight)


def tar_of(path: Path, entries: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """A .tar.gz with files by their content, or with entries of any kind."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                archive.addfile(info)
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """Every adapter file below a folder by its relative name; the store's lock and empty staging left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x01
    path.write_bytes(content)


def truncate(path: Path, by: int = 100) -> None:
    os.truncate(path, path.stat().st_size - by)


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A temporary folder in memory where there is such a place: a killed process loses nothing of what the
    kernel has, so a slow disk would only make these tests slow."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """What test files of the store take for their ``tmp_path``."""
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def empty_store(tmp_path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


@pytest.fixture
def store_of_one(tmp_path) -> AdapterStore:
    store = AdapterStore(tmp_path / "adapters")
    add(store, "kept", seed=1)
    return store


def leftovers(store: AdapterStore) -> list[str]:
    """What lies in the store's staging folder."""
    return os.listdir(store.root / ".staging") if (store.root / ".staging").exists() else []


def refused(store: AdapterStore, source, says: str) -> str:
    """Importing a source is refused in one sentence, and nothing around it has changed."""
    before = files_of(store.root.parent)
    with pytest.raises(AsuLoraError, match=says) as caught:
        store.import_(source, "taken")
    assert files_of(store.root.parent) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def entries(folder) -> dict[str, bytes]:
    return {f"a/{name}": content for name, content in files_of(folder).items()}
