"""Entailment by a language model: an OpenAI-compatible server on this machine as the judge."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

from asu_lora.evaluation.pretrained import ScoreUnavailable

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SECONDS = 120  # for one answer of the judge
ASKED = (
    "Decide whether the first text entails the second: whether somebody who believes the first must believe the "
    "second.\n\nFirst text: {premise}\n\nSecond text: {hypothesis}\n\nReply with one word: yes or no."
)
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


class EntailmentJudge:
    """Asks ``POST URL/chat/completions``, greedily, one pair at a time; ``yes`` is entailment.

    It stands in the place of :class:`~asu_lora.evaluation.metrics.entailment.EntailmentModel`. Answers may be private:
    only a server on the loopback device is asked, and no proxy.

    Args:
        address: ``http://127.0.0.1:8000/v1``, with ``#MODEL`` where the server has several.

    Raises:
        ScoreUnavailable: the address is not on this machine, or nothing answers there.
    """

    def __init__(self, address: str):
        url, _, model = address.partition("#")
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in LOOPBACK:
            raise ScoreUnavailable(
                f"No entailment: '{url}' is not on this machine, and answers must not leave it; give an address such "
                "as http://127.0.0.1:8000/v1."
            )
        self.url = url.rstrip("/")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.model = model or self._first_model()
        self.name = f"{self.model} at {parts.hostname}"

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """For each (premise, hypothesis): whether the judge says yes.

        Raises:
            ScoreUnavailable: the server doesn't answer, or says neither yes nor no.
        """
        return [self._entails(premise, hypothesis) for premise, hypothesis in pairs]

    def _entails(self, premise: str, hypothesis: str) -> bool:
        asked = ASKED.format(premise=premise, hypothesis=hypothesis)
        reply = self._ask(
            "/chat/completions",
            {
                "model": self.model,
                "messages": [{"role": "user", "content": asked}],
                "temperature": 0,
                "max_tokens": 256,
            },
        )
        try:
            said = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise ScoreUnavailable(f"No entailment: {self.url} gave no message of a chat completion.") from error
        verdicts = _VERDICT.findall(said or "")
        if not verdicts:
            raise ScoreUnavailable(f"No entailment: the judge {self.name} said neither yes nor no.")
        return verdicts[-1].lower() == "yes"  # a judge that thinks aloud decides in the end

    def _first_model(self) -> str:
        try:
            return str(self._ask("/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise ScoreUnavailable(f"No entailment: {self.url} names no model; add #MODEL to the address.") from error

    def _ask(self, path: str, body: dict | None = None) -> dict:
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=SECONDS) as reply:
                return dict(json.load(reply))
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ScoreUnavailable(
                f"No entailment: {self.url}{path} doesn't answer as it should ({reason})."
            ) from error
