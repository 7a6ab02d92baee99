"""Loads the small models that some scores need, and says in one sentence why one can't be had."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from asu_lora.errors import AsuLoraError, first_line
from asu_lora.files import expanded
from asu_lora.hub import hub_answers


class ScoreUnavailable(AsuLoraError):
    """A score that needs a model which can't be had or can't give it; the other scores go on without it."""


@contextmanager
def _quiet():
    """Without transformers' bar and its table of missing weights, which load_pretrained judges itself."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def load_pretrained(auto_class: type, name: str, score: str, way_out: str, unused: tuple[str, ...] = ()):
    """Model (float32, eval mode) and tokenizer of a local folder or a hub id: the cache first, then the hub.

    Args:
        auto_class: the transformers auto class, such as ``AutoModel``.
        name: folder or hub id.
        score: the score's name, for the message.
        way_out: what the person can do instead, a clause that ends the message.
        unused: beginnings of weight names that the score doesn't use, which the checkpoint may lack.

    Raises:
        ScoreUnavailable: no such folder or model, no hub, a broken checkpoint, or one that lacks weights,
            which transformers would fill with random numbers.
    """
    from transformers import AutoTokenizer

    folder = expanded(name)
    source = str(folder) if folder.is_dir() else name

    @_quiet()
    def load(**where):
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        model, report = auto_class.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **where)
        return model.eval(), tokenizer, report

    def refuse(reason: str) -> ScoreUnavailable:
        return ScoreUnavailable(f"No {score}: the model '{name}' {reason}; {way_out}.")

    # Anything a third party's loader raises means the same to the person: this model can't be had.
    try:
        model, tokenizer, report = load(local_files_only=True)
    except Exception as error:
        if folder.is_dir():
            raise refuse(f"can't be loaded ({first_line(error)})") from error
        if name.startswith(("/", ".", "~")):
            raise refuse("is no folder on this machine") from error
        if not hub_answers():
            raise refuse("is not in the hub's cache and the hub can't be reached") from error
        try:
            model, tokenizer, report = load()
        except Exception as second:
            raise refuse(f"can't be fetched from the hub ({first_line(second)})") from second
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(unused))
    if missing:
        raise refuse(f"has no weights for {missing[0]} (of {len(missing)} missing)")
    return model, tokenizer


def find_file(name: str, file: str) -> Path | None:
    """A small file beside a model's weights: in its folder, the hub's cache or the hub, or None."""
    from transformers.utils import cached_file

    for where in ({"local_files_only": True}, {}):
        if where or (not Path(name).is_dir() and hub_answers()):
            try:
                found = cached_file(name, file, **where)
            except OSError:  # no such file there
                continue
            if found is not None:
                return Path(found)
    return None


def batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches, longest first, for little padding and the largest batch first."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
