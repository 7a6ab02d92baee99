"""When a request has to be done: ``30d`` from now, or a date."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta

from asu_lora.errors import SettingError
from asu_lora.requests.ledger.states import utc_text

UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def due_moment(text: str, now: datetime | None = None) -> str:
    """The moment, UTC, up to which a request has time.

    Args:
        text: ``30d``, ``6w``, ``12h``; or ``2026-12-31``, which lasts until its midnight in UTC; or a whole moment,
            ``2026-12-31T12:00:00+01:00``.

    Raises:
        SettingError: no date, or one that has passed.
    """
    now = now or datetime.now(UTC)
    text = text.strip()
    try:
        if span := re.fullmatch(r"(\d{1,6})([hdw])", text):
            moment = now + int(span[1]) * UNITS[span[2]]
        elif day := _day(text):
            moment = datetime.combine(day, time(23, 59, 59), UTC)
        else:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        told = utc_text(moment)
    except (ValueError, OverflowError) as error:
        raise SettingError(f"The due date '{text}' is no date: write 30d, 6w, 12h or 2026-12-31.") from error
    if moment <= now:
        raise SettingError(f"The due date {text} has passed already: give the day the answer is due.")
    return told


def _day(text: str) -> date | None:
    """A date without a time, in any of ISO 8601's ways; None for anything else."""
    with suppress(ValueError):
        return date.fromisoformat(text)
    return None
