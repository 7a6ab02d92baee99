"""How rows are written and how long they may be: one object for training, scoring and asking."""

from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

# model types whose positions begin behind the padding token's id, as in fairseq
_POSITIONS_AFTER_PADDING = ("roberta", "camembert", "xlm-roberta", "data2vec-text", "xmod")


class RunSettings(Protocol):
    """What a run's settings hold of it."""

    @property
    def max_length(self) -> int: ...

    @property
    def system_prompt(self) -> str | None: ...

    @property
    def template_date(self) -> str | None: ...


@dataclass(frozen=True)
class RowFormat:
    """What a row's tokens depend on, beside the tokenizer.

    Attributes:
        max_length: most tokens of a row, prompt included.
        system_prompt: put before every conversation without a system turn; None for none.
        template_date: what the chat template takes for today, ``YYYY-MM-DD``; None for the clock's.
    """

    max_length: int = 512
    system_prompt: str | None = None
    template_date: str | None = None

    @classmethod
    def of(cls, settings: RunSettings) -> "RowFormat":
        """That of a run's settings."""
        return cls(settings.max_length, settings.system_prompt, settings.template_date)

    @classmethod
    def recorded(cls, training: dict[str, Any]) -> "RowFormat":
        """That of a manifest's ``training``; what it doesn't tell, or tells as something else, is the default."""
        length, prompt, day = (training.get(name) for name in ("max_length", "system_prompt", "template_date"))
        try:
            day = date.fromisoformat(day).isoformat() if isinstance(day, str) else None
        except ValueError:
            day = None
        return cls(
            length if isinstance(length, int) and length > 0 else cls.max_length,
            prompt if isinstance(prompt, str) and prompt else None,
            day,
        )


WIDTH_STEP = 8  # tokens in which the widths of forward passes come, see asu_lora.batches.padding.padded_length


@dataclass(frozen=True)
class BaseLimits:
    """What a base can take at all; None where its config tells no limit.

    Attributes:
        positions: tokens of one row.
        vocabulary: rows of its embedding.
    """

    positions: int | None = None
    vocabulary: int | None = None

    @property
    def longest_row(self) -> int | None:
        """Tokens of the longest row whose pass, padding included, has a position for each of them."""
        return self.positions and max(self.positions // WIDTH_STEP * WIDTH_STEP, min(self.positions, WIDTH_STEP))

    @classmethod
    def of(cls, config: Any) -> "BaseLimits":
        """Read them off a transformers config."""
        text = config.get_text_config()
        # MPT has its own name for them
        found = (_positive(getattr(text, name, None)) for name in ("max_position_embeddings", "max_seq_len"))
        positions = next(filter(None, found), None)
        if positions and getattr(text, "model_type", "") in _POSITIONS_AFTER_PADDING:
            positions -= (getattr(text, "pad_token_id", None) or 0) + 1
        return cls(positions, _positive(getattr(text, "vocab_size", None)))


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
