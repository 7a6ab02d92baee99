"""From a request to the sets of a run: what goes and what stays, each with its loss and its encoded rows."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from asu_lora.batches.padding import every_position
from asu_lora.config import ForgetConfig
from asu_lora.data.chat_template import special_ids
from asu_lora.data.column_notes import columns_note
from asu_lora.data.encoding import Encoded, Encoder, cut_note
from asu_lora.data.examples import Example
from asu_lora.data.phrasings import in_other_words, other_phrasings
from asu_lora.data.refusals import refusals
from asu_lora.data.request import ForgetRequest
from asu_lora.data.token_classes import token_classes
from asu_lora.data.training_rows import TrainingRows
from asu_lora.errors import SettingError, TrainingError
from asu_lora.forgetting.alternates import alternate_answers, own_alternates
from asu_lora.forgetting.other_openings import other_openings
from asu_lora.forgetting.run import ForgetRun
from asu_lora.losses import Loss, TrainingSet, forget_loss, own_settings, retain_loss
from asu_lora.losses.forget.asu import ASU
from asu_lora.losses.forget.asu_idk import ASUWithIDK
from asu_lora.losses.forget.rmu import RMU
from asu_lora.progress import Progress


def prepare(run: ForgetRun, idk_file: str | Path | None = None) -> dict[str, TrainingSet]:
    """The forget set and, where there is a retain loss, the retain set of a run.

    Raises:
        SettingError: there is a retain loss and nothing to keep.
        AsuLoraError: rows that can't be encoded, or a file of refusals that can't be read.
    """
    losses = _losses(run)
    run.refusals = refusals_for(losses, idk_file)
    alternates = alternate_answers(run) if "alternate" in losses["forget"].needs else []
    openings = other_openings(run, run.config.openings) if run.config.openings else ()
    sets = training_sets(run.request, run.encoder, losses, run.refusals, run.config, alternates, openings=openings)
    note_cut_answers(sets, run.encoder.max_length, run.progress)
    left_out = columns_note((*run.request.forget, *run.request.retain))
    for note in filter(None, (left_out, run.request.paraphrases_note(run.config.phrasings))):
        run.progress.note(note)
    run.record.count(sets)
    return sets


def _losses(run: ForgetRun) -> dict[str, Loss]:
    """The loss of each set of a run."""
    # a tokenizer may have tokens that its base lacks: nothing has to forbid those
    special = [token for token in special_ids(run.base.tokenizer) if token < run.base.head.vocabulary]
    losses = build_losses(run.config, special, run.base.device, run.base.number_of_layers)
    refuse_attacker(run.config, losses["forget"], run.process.num_processes)
    return losses


def check_rows(run: ForgetRun, idk_file: str | Path | None = None) -> None:
    """Refuse at once what :func:`prepare` would refuse: before it, retain rows are looked at, which may take minutes.

    Raises:
        AsuLoraError: what can be told before rows are chosen from a pool, and before the base answers anything.
    """
    losses, request = _losses(run), run.request
    refusals_for(losses, idk_file)
    known = {"forget": request.forget} | ({} if request.pool else {"retain": request.retain})
    for name, rows in known.items():
        if name in losses:
            run.encoder.encode_all(rows, f"{name} row")
            if "idk" in losses[name].needs:
                refuse_passages(rows)
    if "alternate" in losses["forget"].needs:
        own_alternates(request.forget)


def refuse_attacker(config: ForgetConfig, forget: Loss, processes: int = 1) -> None:
    """Refuse --attacker-lr where there is nothing to relearn, and where several processes train.

    Raises:
        SettingError: with the way out.
    """
    if config.attacker_lr and "answer" not in forget.needs:
        raise SettingError(
            f"{forget.name} never looks at the true answers, which --attacker-lr relearns: leave it out."
        )
    if config.attacker_lr and processes > 1:
        raise SettingError(
            "--attacker-lr, which --robust sets, trains in one process: give --attacker-lr 0, or start without "
            "accelerate launch."
        )


def build_losses(
    config: ForgetConfig,
    special: Sequence[int] = (),
    device: torch.device | None = None,
    number_of_layers: int | None = None,
) -> dict[str, Loss]:
    """The loss of each set, with its parameters.

    Args:
        special: ids of the tokens that structure a conversation; ``--keep-speaking`` takes them out of the teacher.
        device: where these will lie.
        number_of_layers: of the base, for losses that look at one.

    Raises:
        SettingError: a number out of range, or a layer that no adapter can move.
    """
    own = own_settings(config.objective, config.retain_loss, config.loss_settings)
    parameters: dict[str, Any] = dict(own["forget"])
    if config.objective in (ASU.name, ASUWithIDK.name) and config.keep_speaking:
        parameters |= {"forbidden": torch.tensor(special, device=device) if special else None, "rule_out": True}
    if config.objective in ("npo", "dpo"):
        parameters["beta"] = config.beta
    if config.objective == RMU.name:
        parameters["seed"] = config.seed
    found = {"forget": forget_loss(config.objective, **parameters)}
    of_retain = {"ap": {"beta": config.beta}, "kl-answers": {"temperature": config.retain_temperature}}
    retain = retain_loss(config.retain_loss, **own["retain"], **of_retain.get(config.retain_loss, {}))
    if retain is not None and config.retain_coeff > 0 and config.retain_per_forget > 0:
        found["retain"] = retain
    forget = found["forget"]
    if config.stop_early and "answer" in forget.needs:  # what it is judged by (asu_lora.training.stop_early)
        forget.needs = {**forget.needs, "answer": tuple(dict.fromkeys((*forget.needs["answer"], "base_logprob")))}
    for loss in found.values():
        if loss.layer is not None and number_of_layers is not None:
            loss.layer = layer_looked_at(loss.layer, config.first_adapted(number_of_layers), number_of_layers)
    return found


def layer_looked_at(layer: int, first: int, number: int) -> int:
    """The layer whose states a loss looks at: the third with an adapter where it says -1.

    Args:
        first: the lowest layer with an adapter.
        number: of the base's layers.

    Raises:
        SettingError: the base has no such layer, or no adapter stands at it or below.
    """
    if layer == -1:
        return min(first + 2, number - 1)
    if not first <= layer < number:
        raise SettingError(
            f"The layer of rmu is {layer}; it must be from {first} to {number - 1}, where the adapter can move its "
            "states (see --adapter-layers)."
        )
    return layer


def refusals_for(losses: Mapping[str, Loss], idk_file: str | Path | None = None) -> list[str]:
    """The "I don't know" answers, where a loss looks at these; else none. Where no file is given, those that the forget
    loss's paper names, or the built-in ones."""
    if not any("idk" in loss.needs for loss in losses.values()):
        return []
    return list(losses["forget"].refusals if idk_file is None else ()) or refusals(idk_file)


def training_sets(
    request: ForgetRequest,
    encoder: Encoder,
    losses: Mapping[str, Loss],
    idk: list[str],
    config: ForgetConfig,
    alternates: Sequence[str] = (),
    *,
    openings: Sequence[Sequence[Example]] = (),
) -> dict[str, TrainingSet]:
    """Encode the views that the losses look at; each row's refusal is drawn once, by the seed.

    Args:
        alternates: another answer for each forget row, where a loss looks at these.
        openings: for each forget row, others that ask the same and answer in other words.

    Raises:
        SettingError: there is a retain loss and nothing to keep.
        TrainingError: a refusal is asked for, and there are passages.
    """
    if "retain" in losses and not request.retain:
        raise SettingError("The request has nothing to keep: give it retain rows, or say --retain-loss none.")
    generator = torch.Generator().manual_seed(config.seed)
    others: list[list[Example]] = []
    if config.phrasings:
        others = other_phrasings(request.forget, config.phrasings, request.retain, encoder)
    if any(openings):
        others = [[*asked, *told] for asked, told in zip(others or [[] for _ in openings], openings, strict=True)]
    if alternates:
        alternates = [*alternates, *(alternates[at] for at, some in enumerate(others) for _ in some)]
    sets = {}
    for name, loss in losses.items():
        examples = [*request.forget, *chain(*others)] if name == "forget" else request.retain
        views: dict[str, list[Encoded]] = {}
        for view in loss.needs:
            if view == "idk":
                drawn = torch.randint(len(idk), (len(examples),), generator=generator).tolist()
                asked = [Example(e.prompt, idk[i], {}, e.row) for e, i in zip(examples, drawn, strict=True)]
                refuse_passages(asked)
                views[view] = encoder.encode_all(asked, f"{name} row")
            elif view == "alternate":
                other = [Example(e.prompt, text, {}, e.row) for e, text in zip(examples, alternates, strict=True)]
                views[view] = encoder.encode_all(other, f"{name} row")
            else:
                views["answer"] = encoder.encode_all(examples, f"{name} row")
            if view == "positions":
                views[view] = every_position(views["answer"], encoder.tokenizer.pad_token_id)
        rows = TrainingRows(views, examples=examples)
        if name == "forget" and others:
            rows.in_other_words = in_other_words(rows.answers, others)
        if loss.uses_teacher() and (config.keep_speaking or config.tau == "auto"):
            rows.classes = [token_classes(row, examples[row.example], encoder.tokenizer) for row in rows.answers]
        sets[name] = TrainingSet(loss, rows)
    return sets


def refuse_passages(examples: Sequence[Example]) -> None:
    """Refuse a passage: nothing is asked there.

    Raises:
        TrainingError: with the way out.
    """
    if any(example.is_passage for example in examples):
        raise TrainingError(
            'An "I don\'t know" answers a question, and this request has passages of plain text: use '
            "another objective or retain loss, such as asu with kl-answers."
        )


def note_cut_answers(sets: Mapping[str, TrainingSet], max_length: int, progress: Progress) -> None:
    """Say how many answers the length cut off."""
    for name, each in sets.items():
        if note := cut_note(each.rows.views.get("answer", [])[: len(each)], max_length, name, "trained on"):
            progress.note(note)
