"""The retain rows of a run: chosen from the request's pool, or looked at for how near and many they are."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list

from asu_lora.data.examples import Example
from asu_lora.data.request import GENERAL
from asu_lora.forgetting.prepare import check_rows
from asu_lora.forgetting.run import ForgetRun
from asu_lora.retain.choose import choose_rows
from asu_lora.retain.nearness import look_at
from asu_lora.retain.row_vectors import row_vectors, text_of


def settle_retain(run: ForgetRun, idk_file: str | Path | None = None) -> None:
    """Choose the rows of a request that has a pool, with the plain base; warn of rows that protect little.

    Nothing is looked at where no retain loss is asked for, or the request keeps general knowledge.

    Raises:
        AsuLoraError: the pool has no row that can be kept, or the run would be refused after all this.
    """
    check_rows(run, idk_file)
    request, config = run.request, run.config
    if request.pool is None:
        if request.retain and request.retain_source != GENERAL and config.retain_loss != "none":
            run.progress.stage("Looking at the retain rows")
            with run.beneath.inactive():
                look = partial(look_at, run.base, request.forget, request.retain, partial(_vectors, run))
                found = run.once(("nearness", request.fingerprint()), look)
            if note := found.note():
                run.progress.note(note)
        return
    pool, left_out = request.pool.trainable(run.encoder)
    if left_out:
        run.progress.note(left_out)
    with run.beneath.inactive():
        choice = choose_rows(run.base, request.forget, pool, run.progress)
    choice = broadcast_object_list([choice])[0]  # one choice, should processes round differently
    for note in choice.notes(request.pool.wanted):
        run.progress.note(note)
    run.record.request, run.record.retain_choice = request.with_retain(choice.rows), choice.record()


def _vectors(run: ForgetRun, rows: Sequence[Example]) -> torch.Tensor:
    """Vectors of rows that are kept; the next run of a queue may keep the same."""
    return run.once(("vectors", *map(text_of, rows)), partial(row_vectors, run.base, rows), of="retain")
