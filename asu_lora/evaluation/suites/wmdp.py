"""WMDP (arXiv 2403.03218): four-way questions on biosecurity, cybersecurity and chemistry, by likelihood.

Asked as lm-evaluation-harness asks them: zero-shot, plain text without a chat template, the four options under
their letters, and the letter after "Answer:" that the model finds most likely. 25 % is chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from asu_lora.data.encoding import Encoded
from asu_lora.data.reading import read_rows
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError
from asu_lora.evaluation.score import Score
from asu_lora.evaluation.suites.benchmark import SUFFIXES, BenchmarkEvaluation, read_split, texts
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.decoder import base_model
from asu_lora.models.hidden_states import hidden_states
from asu_lora.models.output_head import FrozenHead, label_logprob
from asu_lora.progress import Progress

SUBSETS = ("wmdp-bio", "wmdp-cyber", "wmdp-chem")
LETTERS = "ABCD"
BLOCK = 64  # questions scored at once
LONGEST = 4096  # tokens of a prompt, where the base names no limit


@dataclass(frozen=True)
class Choice:
    """One question with four options; ``answer`` is the index of the right one."""

    question: str
    options: tuple[str, ...]
    answer: int
    row: int

    @property
    def prompt(self) -> str:
        options = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=True))
        return f"{self.question.strip()}{options}\nAnswer:"


def read(data: str | Path, most: int = 300) -> dict[str, list[Choice]]:
    """The questions of each subset that is there; at most ``most`` of each, spread evenly over it.

    Args:
        data: ``cais/wmdp``, or a folder with ``wmdp-bio/test.json`` or ``wmdp-bio.json`` and so on (or ``.jsonl``,
            ``.parquet``).

    Raises:
        DataError: there is none, or a row isn't a question with four choices and an answer's index.
    """
    found = {}
    for subset in SUBSETS:
        rows = read_split(data, subset, "test")
        if rows is None:
            files = [path for suffix in SUFFIXES if (path := Path(data) / f"{subset}{suffix}").is_file()]
            rows = read_rows(files[0]) if files else None
        if rows:
            found[subset] = sample(_choices(rows, subset), most)
    if not found:
        raise DataError(
            f"The folder {data} has nothing of WMDP: it should hold wmdp-bio.json, wmdp-cyber.json or "
            "wmdp-chem.json (or .jsonl, .parquet)."
        )
    return found


def _choices(rows: Sequence[dict[str, Any]], subset: str) -> list[Choice]:
    questions = texts(rows, "question", subset)
    choices = []
    for number, (question, row) in enumerate(zip(questions, rows, strict=True), start=1):
        options, answer = row.get("choices"), row.get("answer")
        if not isinstance(options, list) or len(options) != 4 or answer not in range(4):
            raise DataError(
                f"{subset}, row {number}: a question needs 'choices', a list of four, and 'answer', the "
                "index of the right one, 0 to 3."
            )
        choices.append(Choice(question, tuple(map(str, options)), int(answer), number))
    return choices


def score(stack: Stack, subsets: dict[str, list[Choice]], progress: Progress | None = None) -> BenchmarkEvaluation:
    """Accuracy of each subset, and of all questions together, as lm-evaluation-harness weighs its group."""
    progress = progress or Progress()
    result = BenchmarkEvaluation({}, [])
    model = base_model(stack.model)
    head = FrozenHead(model)
    for subset, choices in subsets.items():
        progress.stage(f"Questions of {subset}", len(choices))
        for start in range(0, len(choices), BLOCK):
            block = choices[start : start + BLOCK]
            for choice, values in zip(block, letter_logprobs(model, head, stack.base.tokenizer, block), strict=True):
                said = max(range(4), key=values.__getitem__)
                result.records.append(
                    {
                        "set": subset,
                        "row": choice.row,
                        "question": choice.question,
                        "truth": LETTERS[choice.answer],
                        "answer": LETTERS[said],
                        "logprobs": values,
                        "accuracy": float(said == choice.answer),
                    }
                )
            progress.advance(len(block))
        mine = [row["accuracy"] for row in result.records if row["set"] == subset]
        result.sets[subset] = {"accuracy": fmean(mine)}
        result.more[subset.replace("wmdp-", "WMDP ")] = Score(fmean(mine), 1, 1, (), "values")
    missing = tuple(subset for subset in SUBSETS if subset not in subsets)
    result.more["WMDP"] = Score(
        fmean(row["accuracy"] for row in result.records), len(subsets), len(SUBSETS), missing, "values"
    )
    progress.close()
    return result


def letter_logprobs(
    model: torch.nn.Module, head: FrozenHead, tokenizer, choices: Sequence[Choice]
) -> list[list[float]]:
    """Log-probability of " A" to " D" after each prompt, nats.

    Prompt and letter are tokenised together, and what the letter adds is scored. Where all four add one token,
    one row a question serves them all.
    """
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or LONGEST
    items, spans, letters = [], [], []
    for choice in choices:
        prompt = tokenizer(choice.prompt).input_ids
        added = [tokenizer(f"{choice.prompt} {letter}").input_ids[len(prompt) :] for letter in LETTERS]
        prompt = prompt[-(longest - max(map(len, added))) :]  # a long question loses its beginning, as in the harness
        rows = added[:1] if all(len(ids) == 1 for ids in added) else added
        spans.append((len(items), len(rows)))
        items += [Encoded(tuple(prompt), tuple(ids)) for ids in rows]
        letters.append(added)
    states = hidden_states(model, items, tokenizer.pad_token_id)
    found = []
    for (start, count), added in zip(spans, letters, strict=True):
        if count == 1:
            logprobs = head.logits(states[start])[0].log_softmax(-1)
            found.append([logprobs[ids[0]].item() for ids in added])
        else:
            found.append(
                [
                    head.per_token(label_logprob, state, torch.tensor(ids, device=state.device)).sum().item()
                    for state, ids in zip(states[start : start + count], added, strict=True)
                ]
            )
    return found
