"""Curves over time: what attacks still bring back, and what of the rest is kept."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from asu_lora.report.certificates import KnownCertificate
from asu_lora.report.contents import KnownAdapter, StoreContents
from asu_lora.report.queue import Queue, Reading
from asu_lora.reporting.html.curves import Curve, plot
from asu_lora.reporting.html.shapes import Role

WORST = Role("control", "the strongest attack on any", "square", True, "")
MEAN = Role("now", "the mean of all", "diamond", True, "9 4")
FORGOTTEN = Role("now", "the forgotten answers' probability, after", "diamond", True, "")
LEAST = Role("before", "the least of any request", "square", True, "")
KEPT = Role("before", "the kept answers' probability, after", "square", True, "9 4")
KEPT_BEFORE = Role("never", "the kept answers' probability, before", "circle", False, "2 4")

DAY = 86_400.0


def days(moments: Sequence[str]) -> list[float]:
    """Times as days since the first."""
    seconds = [datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp() for moment in moments]
    return [(second - seconds[0]) / DAY for second in seconds]


def brought_back(certificates: Sequence[KnownCertificate]) -> str:
    """What the strongest attack brings back, over the newest certificate of every model at each time."""
    current: dict[str, float] = {}
    moments, worst, mean = [], [], []
    for known in sorted(certificates, key=lambda known: known.certificate.issued):  # clocks are set back
        share = known.worst
        if share is None:
            continue
        current[known.certificate.done.subject()] = share
        moments.append(known.certificate.issued)
        worst.append(max(current.values()))
        mean.append(sum(current.values()) / len(current))
    return _over_time("Share brought back by attacks", moments, [Curve(WORST, worst), Curve(MEAN, mean)])


def audited(readings: Sequence[Reading]) -> str:
    """What the queue's own audits bring back, over the newest of every request that stands at each time."""
    current: dict[str, float] = {}
    moments, worst, mean = [], [], []
    for reading in readings:
        current.pop(reading.request, None)
        if reading.worst is not None:
            current[reading.request] = reading.worst
        if current:
            moments.append(reading.at)
            worst.append(max(current.values()))
            mean.append(sum(current.values()) / len(current))
    return _over_time("Share brought back by the queue's audits", moments, [Curve(WORST, worst), Curve(MEAN, mean)])


def kept_beside(readings: Sequence[Reading]) -> str:
    """What is kept with the adapters that were active, over the newest audit of every request that stands."""
    current: dict[str, float] = {}
    moments, least, mean = [], [], []
    for reading in readings:
        if reading.withdrawn:
            current.pop(reading.request, None)
        elif reading.kept is not None:
            current[reading.request] = reading.kept
            moments.append(reading.at)
            least.append(min(current.values()))
            mean.append(sum(current.values()) / len(current))
    return _over_time("Share of the kept answers' probability", moments, [Curve(LEAST, least), Curve(MEAN, mean)])


def kept(adapters: Iterable[KnownAdapter]) -> str:
    """What adapters forgot and kept when they were made, one after another."""
    made = sorted(
        (known for known in adapters if known.adapter.manifest and known.adapter.manifest.figures.after),
        key=lambda known: known.adapter.manifest.created if known.adapter.manifest else "",
    )
    moments = [known.adapter.manifest.created for known in made if known.adapter.manifest]
    forgotten = [known.figures("forget_probability")[1] for known in made]
    retained = [known.figures("retain_probability") for known in made]
    return _over_time(
        "Probability of answers when each adapter was made",
        moments,
        [
            Curve(FORGOTTEN, forgotten),
            Curve(KEPT, [after for _, after in retained]),
            Curve(KEPT_BEFORE, [before for before, _ in retained]),
        ],
    )


def figures(contents: StoreContents, queue: Queue | None = None) -> list[tuple[str, str]]:
    """(title, figure) of the curves for which there is enough."""
    found = [
        ("What attacks bring back, by certificates", brought_back(contents.certificates)),
        ("What attacks bring back, by the audits of the queue", audited(queue.readings) if queue else ""),
        ("What is kept, by the audits of the queue", kept_beside(queue.readings) if queue else ""),
        ("What was forgotten and kept, adapter after adapter", kept(contents.adapters)),
    ]
    return [(title, figure) for title, figure in found if figure]


def _over_time(what: str, moments: Sequence[str], curves: Sequence[Curve]) -> str:
    there = [curve for curve in curves if any(value is not None for value in curve.values)]
    if len(moments) < 2 or not there:
        return ""
    axis = days(moments)
    ends = (moments[0][:10], moments[-1][:10])
    if axis[-1] < 1 / 24 or ends[0] == ends[1]:  # all within a day: one after another
        axis, ends = [float(number) for number in range(len(moments))], (moments[0][11:16], moments[-1][11:16])
    return plot(what, axis, there, "time", ends)
