"""The error of a score whose model can't be had."""

from asu_lora.errors import AsuLoraError


class ScoreUnavailable(AsuLoraError):
    """A score that needs a model which can't be had or can't give it; the other scores go on without it."""
