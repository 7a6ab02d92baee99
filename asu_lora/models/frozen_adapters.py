"""The ground a new adapter is trained on: adapters of earlier requests, active and frozen beneath it.

One base, several LoRA adapters on its layers, and a switch. Everything off is the untouched base, from which
teacher and reference come by default; the ground alone is what answers before the run; ground and new adapter
together are the student. Nothing is merged and nothing is copied.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper

from asu_lora.adapters.adapter_config import read_adapter_config, refuse_weight
from asu_lora.adapters.lora_folder import read_adapter, read_lora
from asu_lora.adapters.manifest import StackedOn, fingerprint_of, has_manifest, read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.bases.source import BaseSource
from asu_lora.errors import AdapterError, SettingError
from asu_lora.models.adapter_loading import fill, take_off
from asu_lora.models.adapter_stack import adapter_folders, check_base, clear, stack_adapters
from asu_lora.models.decoder import base_model, decoder_and_layers
from asu_lora.models.loading import LoadedBase
from asu_lora.models.renamed import renamed_quietly

NEW = "default"  # PEFT's name of the adapter that trains; that of a plain folder
_SHAPE = ("r", "lora_alpha", "use_rslora", "target_modules", "layers_to_transform", "rank_pattern", "alpha_pattern")


@dataclass
class FrozenAdapters:
    """The adapters beneath the one that trains; empty, it is the plain base.

    Attributes:
        on_top_of: what the manifest says of them.
        continued: the adapter whose weights the new one begins with, if any. It answers before the run, and the
            new adapter takes its place.
        peft: the model with these adapters on it, None without any.
        names: PEFT's names of the ones that stay active while the new one trains.
    """

    on_top_of: list[StackedOn] = field(default_factory=list)
    continued: Path | None = None
    peft: PeftModel | None = None
    names: list[str] = field(default_factory=list)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the adapters beneath are on; after it, all are off."""
        self._put_on()
        try:
            yield
        finally:
            self._take_off()

    @contextmanager
    def inactive(self) -> Iterator[None]:
        """Inside, all adapters are off: the base is the untouched one. After it, those beneath are on."""
        self._take_off()
        try:
            yield
        finally:
            self._put_on()

    def _put_on(self) -> None:
        if self.peft is not None:
            tuner(self.peft).enable_adapter_layers()
            tuner(self.peft).set_adapter(list(self.peft.peft_config), inference_mode=True)

    def _take_off(self) -> None:
        if self.peft is not None:
            tuner(self.peft).disable_adapter_layers()

    def add(self, model: torch.nn.Module, lora: LoraConfig) -> PeftModel:
        """Put a fresh adapter on, the only one that trains.

        Raises:
            SettingError: it should go on from an adapter of another shape.
            ValueError: PEFT's, for modules that aren't there.
        """
        if self.peft is None:
            with renamed_quietly():
                return get_peft_model(model, lora)
        if self.continued:
            check_same_shape(self.continued, lora)
        self.peft.add_adapter(NEW, lora)
        self._train_new(self.peft)
        if self.continued:
            fill(self.peft, read_lora(self.continued), NEW)
        return self.peft

    def _train_new(self, peft: PeftModel) -> None:
        """Put on what the student stands on and the new adapter, which alone trains."""
        tuner(peft).enable_adapter_layers()
        tuner(peft).set_adapter([*self.names, NEW])
        for name, parameter in peft.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and f".{NEW}." in name)

    @contextmanager
    def reference(self, student: PeftModel, teacher: str) -> Iterator[None]:
        """Inside, the model is what references are made of: the untouched base, or with the teacher "stack" what was
        there before the run; after it, the student again."""
        if self.peft is None:
            with student.disable_adapter():
                yield
            return
        try:
            tuner(self.peft).set_adapter([name for name in self.peft.peft_config if name != NEW], inference_mode=True)
            if teacher != "stack":
                tuner(self.peft).disable_adapter_layers()
            yield
        finally:
            self._train_new(self.peft)

    def drop(self, student: PeftModel) -> None:
        """Take the fresh adapter off again; the ground stays."""
        if self.peft is None:
            student.unload()
        else:
            tuner(self.peft).set_adapter(list(set(self.peft.peft_config) - {NEW}), inference_mode=True)
            self.peft.delete_adapter(NEW)
            self._put_on()

    def lowest(self, first: int) -> int:
        """The lowest decoder layer in which the student may differ from the untouched base.

        Args:
            first: the lowest layer of the new adapter.

        Returns:
            That, or the ground's, if that is lower; 0 where it changes something outside the layers.
        """
        if self.peft is None:
            return first
        changed = [
            module
            for module in self.peft.modules()
            if (isinstance(module, BaseTunerLayer) and module.r) or isinstance(module, AuxiliaryTrainingWrapper)
        ]
        layers = decoder_and_layers(self.peft)[1]
        inside = {id(module): index for index, layer in enumerate(layers) for module in layer.modules()}
        return min(first, *(inside.get(id(module), 0) for module in changed))

    def began_with(self) -> str | None:
        """The fingerprint of the adapter that is continued, if one is."""
        return fingerprint_of(self.continued) if self.continued else None

    def identity(self) -> list:
        """What a resumed run must stand on too."""
        return [[[below.fingerprint, below.weight] for below in self.on_top_of], self.began_with()]


def tuner(peft: PeftModel) -> LoraModel:
    """What switches a PEFT model's adapters."""
    return cast(LoraModel, peft.base_model)


@contextmanager
def frozen_adapters(
    base: LoadedBase,
    adapters: Iterable[str | Path | tuple[str | Path, float]] = (),
    store: str | Path | AdapterStore = "adapters",
    continue_from: str | Path | None = None,
) -> Iterator[FrozenAdapters]:
    """The base with these adapters on, frozen; after the block, however it ends, it is the plain base again.

    Args:
        adapters: names, folders and weights, as :func:`asu_lora.load` takes them.
        continue_from: an adapter whose weights the new one begins with.

    Raises:
        AdapterError: an adapter belongs to another base, doesn't fit it, or changes its output head.
        StoreError: an unknown adapter.
    """
    folders = adapter_folders(adapters, store)
    continued = adapter_folders([(continue_from, 1.0)], store) if continue_from is not None else []
    for folder, _ in (*folders, *continued):
        check_base(folder, base.source)
    clear(base)
    ground = FrozenAdapters(beneath(folders), continued[0][0] if continued else None)
    if not folders and not continued:
        yield ground
        return
    head = base_model(base.model).get_output_embeddings()
    ground.peft = peft = cast(PeftModel, stack_adapters(base.model, [*folders, *continued]))
    ground.names = list(peft.peft_config)[: len(folders)]
    try:
        if base_model(base.model).get_output_embeddings() is not head:
            raise AdapterError(
                "An adapter to train on top of changes the output head, which teacher and student "
                "share: it can't be the ground of another one."
            )
        for module in peft.modules():  # its own training is over
            if isinstance(dropout := getattr(module, "lora_dropout", None), torch.nn.ModuleDict):
                dropout.update({name: torch.nn.Identity() for name in list(dropout)})
        with ground.active():
            yield ground
    finally:
        take_off(base.model)  # PEFT's own unload leaves whole modules of an adapter in the base's place
        base.model.eval()


def beneath(folders: Iterable[tuple[Path, float]]) -> list[StackedOn]:
    """Names, fingerprints and weights of adapters, as a manifest holds them."""
    return [
        StackedOn(
            name=read_manifest(folder).name if has_manifest(folder) else folder.name,
            fingerprint=fingerprint_of(folder),
            weight=weight,
        )
        for folder, weight in folders
    ]


def check_ground(
    source: BaseSource, adapters: Iterable[str | Path | tuple[str | Path, float]], store: str | Path | AdapterStore
) -> list[StackedOn]:
    """What a run would stand on, checked without loading anything; raises as :func:`frozen_adapters` does."""
    folders = adapter_folders(adapters, store)
    for folder, weight in folders:
        check_base(folder, source)
        refuse_weight(folder.name, read_adapter(folder).config, weight)
    return beneath(folders)


def check_same_shape(folder: Path, lora: LoraConfig) -> None:
    """Refuse to go on from an adapter that the settings would have given another rank, scaling or place.

    Raises:
        SettingError: naming the first difference.
    """
    before = read_adapter_config(folder)
    for name in _SHAPE:
        theirs, ours = before.get(name) or None, getattr(lora, name) or None
        if isinstance(theirs, list) and not isinstance(ours, str):
            theirs, ours = sorted(theirs), sorted(ours or ())
        if theirs != ours:
            raise SettingError(
                f"The adapter '{folder.name}' can't be continued with these settings: its {name} is "
                f"{theirs}, not {ours}; give the settings it was trained with."
            )
