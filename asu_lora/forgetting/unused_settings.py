"""Settings that somebody gives and that change nothing beside the others: said, for who gives one expects something."""

from collections.abc import Collection, Iterator

from asu_lora.config import ForgetConfig
from asu_lora.losses import FORGET, NO_RETAIN

_OF_RETAIN = ("retain_loss", "retain_coeff", "retain_per_forget", "retain_dose", "retain_temperature", "keep_off")
# what turns a thing off is heeded in any case
_OFF = {
    "own_words": 0, "retain_coeff": 0, "retain_per_forget": 0, "retain_dose": 1, "retain_temperature": 1,
    "keep_off": 0, "openings": 0, "retain_loss": NO_RETAIN, "teacher": "base",
}  # fmt: skip


def unused_settings(config: ForgetConfig, given: Collection[str], asks: bool = True, alone: bool = True) -> list[str]:
    """One sentence for each reason why settings change nothing.

    Args:
        given: names of the settings that were typed, or stand in a file.
        asks: whether the request asks anything, and isn't of passages alone.
        alone: whether the adapter is trained on no others.
    """
    left, found = set(given), []
    for names, why in _reasons(config, asks, alone):
        mine = [name for name in names if name in left and getattr(config, name) != _OFF.get(name)]
        left -= set(mine)
        flags = [f"--{name.replace('_', '-')}" for name in mine]
        if flags:
            found.append(f"{', '.join(flags)} {'change' if len(flags) > 1 else 'changes'} nothing: {why}.")
    return found


def _reasons(config: ForgetConfig, asks: bool, alone: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    if not FORGET[config.objective].uses_teacher():
        yield ("tau", "smooth_layers", "own_words"), f"{config.objective} has no smoothed teacher"
    elif not config.keep_speaking:
        yield ("own_words",), "with --no-keep-speaking answers are left as they come"
    if alone:
        yield ("teacher",), "without --on-top-of there is no stack"
    if not asks:
        yield ("own_words", "openings"), "passages ask nothing"
    if config.tau == 1:
        yield ("smooth_layers",), "tau 1 smooths nothing"
    if config.objective not in ("npo", "dpo") and config.retain_loss != "ap":
        yield ("beta",), f"neither {config.objective} nor {config.retain_loss} has this number"
    if config.retain_loss == NO_RETAIN or not (config.retain_coeff and config.retain_per_forget):
        yield _OF_RETAIN, "there is no retain loss"
    elif config.retain_loss != "kl-answers":
        yield ("retain_temperature",), f"it is for kl-answers, and the retain loss is {config.retain_loss}"
