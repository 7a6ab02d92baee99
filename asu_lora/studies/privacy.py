"""What a study may write of an error: nothing that the request says.

A report is shared more widely than a request. Errors quote rows so that a person finds them; on the screen they may,
in a file they may not.
"""

import re
from collections.abc import Iterator
from typing import Any

from asu_lora.data.request import ForgetRequest
from asu_lora.errors import AsuLoraError, DataError

RUN = 4  # words in a row that a sentence must not share with the request
SHORTEST = 3  # letters; shorter fields ("1", "no") tell nothing
QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"")


class Privacy:
    """Decides whether a sentence holds text of a request: of its rows, all their columns, or its name."""

    def __init__(self, request: ForgetRequest):
        rows = (*request.forget, *request.retain)
        found = {
            *(turn["content"] for example in rows for turn in example.prompt),
            *(example.answer for example in rows),
            *(text for example in rows for text in texts(example.extra)),
            request.name,
        }
        self.fields = {plain(text) for text in found} - {"", "request"}  # the name of one that has none

    def error(self, error: AsuLoraError) -> str:
        """What may be written of an error: its sentence, or its kind alone.

        A :class:`DataError` is about rows and quotes them: of it the kind is written, whatever it says.
        """
        told = isinstance(error, DataError) or self.tells(str(error))
        return self.hidden(type(error).__name__) if told else str(error)

    def tells(self, sentence: str) -> bool:
        """Whether the sentence holds a whole field of the request, quotes a part of one, or repeats four words."""
        said = plain(sentence)
        if any(field in said for field in self.fields if len(field) >= SHORTEST):
            return True
        words = said.split()
        parts = [plain(one or other) for one, other in QUOTED.findall(sentence)]
        parts += [" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]
        return any(part in field for part in parts if len(part) >= SHORTEST for field in self.fields)

    @staticmethod
    def hidden(kind: str) -> str:
        """The sentence that stands for one of that kind."""
        return f"{kind}: its words may hold text of the request; the same command shows them on the screen."


def texts(value: Any) -> Iterator[str]:
    """Every text in a row's field, however deep."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from (*texts(key), *texts(entry))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from texts(entry)
    elif isinstance(value, str):
        yield value


def plain(text: str) -> str:
    """Letters alone: no case, one space between words."""
    return " ".join(text.split()).casefold()
