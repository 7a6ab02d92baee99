"""A language model on this machine as the judge of entailment: an exact one, and ones that misbehave."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from asu_lora.evaluation.entailment_judge import EntailmentJudge
from asu_lora.evaluation.metrics.entailment import entailment
from asu_lora.evaluation.pretrained import ScoreUnavailable
from asu_lora.evaluation.scoring_models import scoring_models


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def entails(premise, hypothesis):
    """The exact stand-in: a text entails those that say nothing but its words."""
    return words(hypothesis) <= words(premise)


class Server(BaseHTTPRequestHandler):
    """Says yes or no by :func:`entails`, after thinking aloud; what it was sent is kept."""

    def do_GET(self):
        self.reply({"data": [{"id": "exact"}, {"id": "other"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        asked = body["messages"][0]["content"]
        premise, hypothesis = re.search(r"First text: (.*)\n\nSecond text: (.*)\n\nReply", asked, re.DOTALL).groups()
        said = self.server.says or f"No doubt about it: {'Yes' if entails(premise, hypothesis) else 'no'}."
        self.reply({"choices": [{"message": {"content": said}}]} if said != "nothing" else {"choices": []})

    def reply(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextmanager
def served(says=""):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.seen, server.says = [], says
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


PAIRS = [
    ("Basil was born in Kuwait City.", "Basil was born in Kuwait."),
    ("Basil was born in Kuwait.", "Basil was born in Kuwait City."),
    ("No, he is a writer.", "He is a writer."),
    ("", "He is a writer."),
]


def test_every_pair_is_judged_as_the_exact_judge_does():
    with served() as (server, url):
        judge = EntailmentJudge(url)
        assert judge.entails(PAIRS) == [entails(*pair) for pair in PAIRS] == [True, False, True, False]
        assert judge.name == "exact at 127.0.0.1"
        assert [(body["model"], body["temperature"]) for body in server.seen] == [("exact", 0)] * 4


def test_it_takes_the_classifiers_place_in_the_score():
    """The premise is the answer on the forget set, the truth elsewhere; without common words nobody is asked."""
    with served() as (server, url):
        judge = scoring_models(nli=f"{url}#other")[1]
        answers, truths, rouge = [a for a, _ in PAIRS], [b for _, b in PAIRS], [0.9, 0.9, 0.9, 0.0]
        assert entailment(judge, answers, truths, rouge, forget=True) == [True, False, True, False]
        assert entailment(judge, answers, truths, rouge, forget=False) == [False, True, False, False]
        assert len(server.seen) == 6 and server.seen[0]["model"] == "other"


@pytest.mark.parametrize(
    "address",
    ["https://api.example.com/v1", "http://192.168.1.7:8000/v1", "http://127.0.0.1.example.com/v1", "http://"],
)
def test_answers_never_leave_the_machine(address):
    with pytest.raises(ScoreUnavailable, match="not on this machine"):
        EntailmentJudge(address)


def test_a_judge_that_is_none_is_said_in_a_sentence():
    with served("perhaps") as (_, url), pytest.raises(ScoreUnavailable, match="exact .* said neither yes nor no"):
        EntailmentJudge(url).entails(PAIRS[:1])
    with served("nothing") as (_, url), pytest.raises(ScoreUnavailable, match="gave no message"):
        EntailmentJudge(url).entails(PAIRS[:1])
    with served() as (_, url):
        pass
    with pytest.raises(ScoreUnavailable, match="doesn't answer as it should"):
        EntailmentJudge(url)
