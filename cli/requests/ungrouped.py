"""The line of ``asu-lora requests run --consolidate K`` on requests that are in no combined adapter yet."""

from collections.abc import Sequence

MOST_NAMED = 5


def ungrouped_line(names: Sequence[str], size: int) -> str | None:
    """What is said of them; None where there are none.

    Args:
        names: requests with an adapter of their own alone.
        size: adapters in a group, the K of ``--consolidate``.
    """
    if not names:
        return None
    rest = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    lacking = f" ({len(names)} of the {size} that make one)" if len(names) < size else ""  # another run may be at it
    return f"In no combined adapter yet, so serve their own beside it: {', '.join(names[:MOST_NAMED])}{rest}{lacking}."
