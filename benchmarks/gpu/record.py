"""What a short stay on a card has found so far: written after every part, so that a cut run leaves what it has."""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEM = "gpu"


class Record:
    """The parts of a run, their seconds, and why one is missing.

    Args:
        out: the folder that gpu.json and gpu.md are written into.
        minutes: after which no part is begun any more.
    """

    def __init__(self, out: Path, minutes: float):
        self.out, self.started = out, time.monotonic()
        self.deadline = self.started + 60 * minutes
        self.found: dict[str, Any] = {"parts": {}, "seconds": {}, "missing": {}}
        out.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def part(self, name: str, make: Callable[[], Any], needs: float = 0.0) -> Any:
        """Make a part if there are seconds enough for it; None where there are not, or where it fails.

        A part that fails is said and the next one begins: a card is at hand for minutes, and not twice.
        """
        if self.left < needs:
            return self._miss(name, f"{self.left:.0f} s were left, and it takes about {needs:.0f}")
        print(f"[{time.monotonic() - self.started:5.0f} s] {name}", flush=True)
        began = time.monotonic()
        try:
            value = make()
        except Exception as error:
            traceback.print_exc()
            value = self._miss(name, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        else:
            self.found["parts"][name] = value
        self.found["seconds"][name] = round(time.monotonic() - began, 1)
        self.write()
        return value

    def _miss(self, name: str, why: str) -> None:
        self.found["missing"][name] = why
        print(f"{name}: not made: {why}", flush=True)
        self.write()

    def write(self) -> None:
        """Both files anew, each by a rename."""
        for name, text in ((f"{STEM}.json", json.dumps(self.found, indent=1) + "\n"), (f"{STEM}.md", page(self.found))):
            beside = self.out / f".{name}"
            beside.write_text(text)
            beside.replace(self.out / name)


def page(found: dict[str, Any]) -> str:
    """Everything as Markdown; the short table is last."""
    parts = found["parts"]
    text = ["# A short stay on a card\n"]
    for name, value in parts.items():
        if name != "steps" and isinstance(value, dict):
            text += [f"## {name}\n", *(f"- {key}: {shown(each)}" for key, each in value.items()), ""]
    if found["missing"]:
        text += ["## Not made\n", *(f"- {name}: {why}" for name, why in found["missing"].items()), ""]
    text += ["## Seconds\n", *(f"- {name}: {seconds}" for name, seconds in found["seconds"].items()), ""]
    return "\n".join([*text, "## Steps\n", short_table(parts.get("steps") or []), ""])


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


COLUMNS = ("shape", "step", "rows", "how", "seconds", "tokens/s", "TFLOP/s", "share of peak", "against plain")


def short_table(steps: list[dict[str, Any]]) -> str:
    """A row a kind of step: what it takes, and what of the card's measured peak it uses."""
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    for step in steps:
        lines.append(
            [
                step["shape"],
                step["step"],
                str(step["rows"]),
                step["how"],
                f"{step['seconds']:.4f}",
                f"{step['tokens per second']:.0f}",
                f"{step['tflops']:.2f}",
                "-" if step["share of peak"] is None else f"{100 * step['share of peak']:.1f} %",
                "-" if step["against plain"] is None else f"{step['against plain']:.2f}",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
