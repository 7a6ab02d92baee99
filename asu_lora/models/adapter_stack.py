"""A base with any number of adapters active at once, each with a weight."""

from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from asu_lora.adapters.adapter_config import more_than_lora, read_adapter_config, refuse_weight
from asu_lora.adapters.adapter_spec import parse_adapter, several
from asu_lora.adapters.fitted_weights import told, weighed
from asu_lora.adapters.lora_folder import read_adapter
from asu_lora.adapters.manifest import has_manifest, read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.bases.source import BaseSource
from asu_lora.data.encoding import Encoder, encoder_for
from asu_lora.data.examples import question_answer
from asu_lora.data.row_format import RowFormat
from asu_lora.errors import AdapterError, first_line
from asu_lora.models.adapter_loading import put_on, take_off
from asu_lora.models.answer_ends import Endings
from asu_lora.models.copied_weights import refuse_changed_copies
from asu_lora.models.generation import generate_answers
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.models.stack_notes import missing_ground, named_otherwise
from asu_lora.models.stack_rows import LENGTH, RowSettings, rows_of_adapters


@dataclass
class Stack:
    """A base and the adapters on it.

    Attributes:
        base: the loaded base.
        model: the model that answers: a PEFT model with all adapters active, or the base itself without any.
        adapters: names and weights, in the order they were given.
        notes: what a person should know of them, one sentence each (an adapter without the ones it was trained on).
        rows: how its rows are written: length, system prompt and date, from the adapters' manifests.
    """

    base: LoadedBase
    model: torch.nn.Module = field(repr=False)
    adapters: list[tuple[str, float]]
    notes: list[str] = field(default_factory=list)
    rows: RowFormat = field(default_factory=lambda: RowFormat(LENGTH))

    def check(self) -> None:
        """Refuse to answer with other adapters than its own.

        Raises:
            AdapterError: another stack was loaded on the base, or an adapter was trained on it, since.
        """
        own = self.model if isinstance(self.model, PeftModel) else None
        if self.base.stacked is not own:
            raise AdapterError(
                "The base of this stack has other adapters on it by now, or none, since a loaded base holds one stack "
                "at a time: load this one again, or ask the later one, with its adapters off by without_adapters()."
            )

    def encoder(self) -> Encoder:
        """The encoder of everything that this stack is asked or scored on."""
        return encoder_for(self.base.tokenizer, self.base.model.config, self.rows)

    def ask(self, questions: str | Sequence[str], total_tokens: int = 200, endings: Endings | None = None) -> list[str]:
        """The greedy answers of base + adapters, one a question.

        Args:
            questions: several, or a single one as plain text.
            total_tokens: most tokens of question and answer together; half of them are an answer's in any case.
            endings: counts how the answers end.

        Raises:
            AdapterError: :meth:`check`.
        """
        self.check()
        encoder, questions = self.encoder(), [questions] if isinstance(questions, str) else questions
        prompts = [encoder.prompt_ids(question_answer(question, "-").prompt) for question in questions]
        least, tokenizer = total_tokens // 2, self.base.tokenizer
        answers = generate_answers(self.model, tokenizer, prompts, total_tokens, least=least, endings=endings)
        return [str(self.base.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in answers]

    def unload(self) -> None:
        """Take the adapters off for good: the base is a plain base again."""
        if isinstance(self.model, PeftModel):
            if self.base.stacked is self.model:
                clear(self.base)
            self.model = self.base.model

    @contextmanager
    def without_adapters(self):
        """Inside, the stack answers as its base."""
        self.check()
        if isinstance(self.model, PeftModel):
            try:
                with self.model.disable_adapter():
                    yield self
            finally:
                self.model.requires_grad_(False)  # PEFT takes adapters that are switched on for ones that train
        else:
            yield self


def load(
    base: str | Path | LoadedBase,
    adapters: str | Path | Iterable[str | Path | tuple[str | Path, float]] = (),
    store: str | Path | AdapterStore = "adapters",
    precision: str = "nf4",
    device: str | None = None,
    *,
    trust_remote_code: bool = False,
    rows: RowSettings | None = None,
) -> Stack:
    """Load a base and put adapters on it.

    Args:
        base: hub id, folder or ``smollm2-135m``, or a loaded base. That one holds one stack at a time: an earlier
            one's adapters are taken off, and it refuses to answer.
        adapters: names in the store or PEFT folders, or one; ``"name:0.5"`` or ``("name", 0.5)`` for a weight. Several
            without any weight get those that fit, where they were trained to add up, and 1 elsewhere. One that was
            trained on top of others works without them too, if not as it was trained to: the stack's ``notes`` tell.
        rows: length, system prompt and date, where they aren't to be those of the adapters' manifests.

    Raises:
        AdapterError: an adapter belongs to another base, or to weights that only share its name.
        StoreError: an unknown adapter.
    """
    adapters = several(adapters)
    folders = adapter_folders(adapters, store, fit=True)
    base = (
        base
        if isinstance(base, LoadedBase)
        else load_base(base, precision, device, trust_remote_code=trust_remote_code)
    )
    for folder, _ in folders:
        check_base(folder, base.source)
    written, notes = rows_of_adapters([folder for folder, _ in folders], base.tokenizer, rows)
    encoder = encoder_for(base.tokenizer, base.model.config, written)
    clear(base)
    stacked = stack_adapters(base.model, folders)
    base.stacked = stacked if folders else None
    return Stack(
        base,
        stacked,
        [(folder.name, weight) for folder, weight in folders],
        [
            *told(adapters, folders),
            *missing_ground(folders),
            *named_otherwise(folders, base.source),
            *idle(stacked, folders),
            *notes,
            *base.notes(),
            *encoder.notes(),
        ],
        written,
    )


def clear(base: LoadedBase) -> None:
    """Take off the adapters of the stack that is on a base, if there is one; it refuses to answer from now on."""
    if base.stacked is not None:
        take_off(base.model)
        base.stacked = None


def adapter_folders(
    adapters: Iterable[str | Path | tuple[str | Path, float]], store: str | Path | AdapterStore, *, fit: bool = False
) -> list[tuple[Path, float]]:
    """Folders and weights of adapters given as ``"name"``, ``"name:0.5"``, ``("name", 0.5)`` or a folder.

    Args:
        fit: without any weight given, adapters that were trained to add up get those that fit
            (:mod:`asu_lora.adapters.fitted_weights`), not 1.

    Raises:
        SettingError: a weight that is no number.
        AdapterError, StoreError: an adapter that is unknown or broken.
    """
    store = store if isinstance(store, AdapterStore) else AdapterStore(store)
    if fit:
        wanted = weighed(adapters, store)
    else:
        wanted = [parse_adapter(adapter) if isinstance(adapter, (str, Path)) else adapter for adapter in adapters]
    return [(Path(store.resolve(name)), weight) for name, weight in wanted]


def idle(stacked: torch.nn.Module, folders: Sequence[tuple[Path, float]]) -> list[str]:
    """One sentence for every adapter that changes nothing: never trained (B is 0 everywhere), or scaled by alpha 0.

    Args:
        stacked: what :func:`stack_adapters` made of the folders.
    """
    found = []
    for name, (folder, weight) in zip(_names(folders), folders, strict=True):
        layers = [m for m in stacked.modules() if isinstance(m, LoraLayer) and name in getattr(m, "scaling", ())]
        if weight == 0 or more_than_lora(read_adapter_config(folder)):
            continue
        if not any(layer.scaling[name] and _has_numbers(layer, name) for layer in layers):
            found.append(f"The adapter '{folder.name}' changes nothing: its B or its alpha is 0 everywhere.")
    return found


def _has_numbers(layer: Any, name: str) -> bool:
    """Whether an adapter's B holds anything but 0 in one layer."""
    factor = layer.lora_B[name].weight if name in layer.lora_B else layer.lora_embedding_B[name]
    return bool(factor.any())


def _names(folders: Sequence[tuple[Path, float]]) -> list[str]:
    """PEFT's names for stacked adapters."""
    return [f"a{index}" for index in range(len(folders))]


def check_base(folder: Path, source: BaseSource) -> None:
    """Refuse an adapter that was trained on other weights, or carries other weights along.

    Raises:
        AdapterError: its manifest's fingerprint is not that of the base. (A plain PEFT folder has no manifest;
            its shapes are checked when it is loaded.) Or what it has of the base's own weights differs from these.
    """
    if has_manifest(folder):
        made_for = read_manifest(folder).base
        if not source.has_fingerprint(made_for.fingerprint):
            raise AdapterError(
                f"The adapter '{folder.name}' was made for other weights than those of "
                f"'{source.name}' (it belongs to '{made_for.id}'): its fingerprint doesn't match."
            )
    refuse_changed_copies(read_adapter(folder), source)


def stack_adapters(model: torch.nn.Module, folders: Sequence[tuple[Path, float]]) -> torch.nn.Module:
    """Load PEFT folders onto a model, all active, each update multiplied by its weight.

    Raises:
        AdapterError: a folder is no adapter that can be served, or doesn't fit the base with every tensor.
    """
    if not folders:
        return model
    names, stacked = _names(folders), model
    try:
        for name, (folder, weight) in zip(names, folders, strict=True):
            lora = read_adapter(folder)
            refuse_weight(folder.name, lora.config, weight)
            stacked = put_on(stacked, lora, name)
            scale_adapter(stacked, name, weight)
        tuner: Any = stacked.base_model
        tuner.set_adapter(names)
    except ValueError as error:
        take_off(model)
        raise AdapterError(f"These adapters can't be used together: {first_line(error)}") from error
    except BaseException:
        take_off(model)
        raise
    stacked.requires_grad_(False)
    stacked.eval()
    return stacked


def check_fit(model: torch.nn.Module, folders: Sequence[tuple[Path, float]]) -> None:
    """Refuse what :func:`stack_adapters` would refuse; nothing is read but headers if the model has no weights.

    Raises:
        AdapterError: as there.
    """
    training, trained = model.training, [parameter for parameter in model.parameters() if parameter.requires_grad]
    if folders:
        stack_adapters(model, folders)
        take_off(model)
        model.train(training)
        for parameter in trained:
            parameter.requires_grad_(True)


def scale_adapter(peft: PeftModel, name: str, weight: float) -> None:
    """Multiply one adapter's update by ``weight``."""
    for module in peft.modules():
        scaling = getattr(module, "scaling", None)
        if isinstance(scaling, dict) and name in scaling:
            scaling[name] *= weight
