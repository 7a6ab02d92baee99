"""MUSE, News and Books (arXiv 2407.06460): verbatim memorization, knowledge memorization, privacy leakage.

As its authors' code asks: plain text without a chat template, example questions before each question, greedy
answers, ROUGE-L F1 without stemming.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from transformers import PreTrainedTokenizerBase

from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import Example
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError
from asu_lora.evaluation.gradients import add_gradient_norms
from asu_lora.evaluation.likelihoods import Likelihoods
from asu_lora.evaluation.membership import MIN_K, attack_scores, membership_records
from asu_lora.evaluation.metrics.auc import auc
from asu_lora.evaluation.metrics.gibberish import is_gibberish
from asu_lora.evaluation.metrics.privacy_leakage import privacy_leakage
from asu_lora.evaluation.metrics.rouge import rouge_l_f1
from asu_lora.evaluation.record import Record
from asu_lora.evaluation.retain_comparison import leakage, rows_of
from asu_lora.evaluation.score import one_value
from asu_lora.evaluation.suites.benchmark import LONGEST, BenchmarkEvaluation, mean_score, positions, read_split, texts
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.generation import generate_answers
from asu_lora.progress import Progress

VERBATIM_TOKENS, KNOWLEDGE_TOKENS = 128, 32  # of an answer, as in the authors' code
ENDS = ("\n\n", "\nQuestion", "Question:")  # where a model goes on to a question of its own
PASS_TOKENS = 8192  # of the prompts answered at once
HALVES = ("forget", "retain")
VERBATIM, KNOWLEDGE, PRIVACY = "verbmem", "knowmem_{}", "privleak_{}"


@dataclass
class Muse:
    """The data of MUSE; what a folder doesn't have is empty.

    Attributes:
        verbatim: (prompt, true continuation) of forgotten passages.
        knowledge: per half, (question, answer).
        shots: per half, the example questions that stand before each.
        privacy: ``forget`` and ``holdout``: passages, the second never seen by any model.
    """

    verbatim: list[tuple[str, str]]
    knowledge: dict[str, list[tuple[str, str]]]
    shots: dict[str, list[tuple[str, str]]]
    privacy: dict[str, list[str]] = field(default_factory=dict)


def read(data: str | Path, most: int = 300) -> Muse:
    """Read ``verbmem/forget``, ``knowmem/{forget,retain}_qa[_icl]`` and ``privleak/{forget,holdout}``.

    Args:
        data: a folder with these files (see :func:`~asu_lora.evaluation.suites.benchmark.read_split`), or
            ``muse-bench/MUSE-News``, ``muse-bench/MUSE-Books``.
        most: most rows of a set, spread evenly over it.

    Raises:
        DataError: there is none of them, or a row lacks its columns.
    """

    def pairs(config: str, split: str, columns: tuple[str, str], limit: int | None = most) -> list[tuple[str, str]]:
        rows, what = read_split(data, config, split) or [], f"{config}/{split}"
        first, second = (texts(rows, column, what) for column in columns)
        found = list(zip(first, second, strict=True))
        return found if limit is None else sample(found, limit)

    found = Muse(
        pairs("verbmem", "forget", ("prompt", "gt")),
        {half: pairs("knowmem", f"{half}_qa", ("question", "answer")) for half in HALVES},
        {half: pairs("knowmem", f"{half}_qa_icl", ("question", "answer"), None) for half in HALVES},
        {
            split: sample(texts(read_split(data, "privleak", split) or [], "text", f"privleak/{split}"), most)
            for split in ("forget", "holdout")
        },
    )
    if not found.verbatim and not any(found.knowledge.values()) and not all(found.privacy.values()):
        raise DataError(
            f"The folder {data} has nothing of MUSE: it should hold verbmem/forget.json, "
            "knowmem/forget_qa.json, knowmem/retain_qa.json, privleak/forget.json and "
            "privleak/holdout.json (or .jsonl, .parquet)."
        )
    return found


def score(
    stack: Stack, muse: Muse, log: list[Record] | None = None, progress: Progress | None = None, gradients: bool = False
) -> BenchmarkEvaluation:
    """VerbMem, memorization, KnowMem on both halves, the attacks and PrivLeak.

    Args:
        log: the records of a model that never saw the forget set, on the same data (see
            :func:`asu_lora.evaluation.retain_log.read_log`); PrivLeak compares with it and is missing without.
        gradients: whether membership is also told by gradient norms, which takes a backward pass a passage.
    """
    progress = progress or Progress()
    result = BenchmarkEvaluation({}, [])
    if log is not None:
        check_log(muse, log)  # before hours of work: it may not fit
    longest, limits = min(LONGEST, positions(stack)), stack.encoder().limits
    likelihoods = Likelihoods(stack, Encoder(stack.base.tokenizer, longest, limits))
    verbatim(stack, muse, result, progress)
    memorization(likelihoods, muse, result, progress)
    for half in HALVES:
        knowledge(stack, muse, half, result, progress)
    passages = privacy_records(likelihoods, muse, gradients, progress)
    add_privacy(result, passages, log)
    progress.close()
    return result


def verbatim(stack: Stack, muse: Muse, result: BenchmarkEvaluation, progress: Progress) -> None:
    """VerbMem: mean ROUGE-L F1 of the greedy continuation against the true one's first 128 tokens."""
    tokenizer = stack.base.tokenizer
    prompts, truths = [pair[0] for pair in muse.verbatim], [pair[1] for pair in muse.verbatim]
    starts = [
        str(tokenizer.decode(tokenizer(truth).input_ids[:VERBATIM_TOKENS], skip_special_tokens=True))
        for truth in truths
    ]
    answers = continuations(stack, prompts, VERBATIM_TOKENS, "Continuations of forgotten passages", result, progress)
    finish(result, "VerbMem", VERBATIM, answers, starts, prompts)


def knowledge(stack: Stack, muse: Muse, half: str, result: BenchmarkEvaluation, progress: Progress) -> None:
    """KnowMem: mean ROUGE-L F1 of the greedy answers to one half's questions."""
    before = "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in muse.shots[half])
    asked, truths = [pair[0] for pair in muse.knowledge[half]], [pair[1] for pair in muse.knowledge[half]]
    if asked and not before:
        result.notes.append(f"KnowMem {half}: asked without example questions, as there is no {half}_qa_icl.")
    prompts = [f"{before}Question: {question}\nAnswer: " for question in asked]
    answers = continuations(stack, prompts, KNOWLEDGE_TOKENS, f"Answers on the {half} questions", result, progress)
    finish(result, f"KnowMem {half}", KNOWLEDGE.format(half), [cut(answer) for answer in answers], truths, asked)


def memorization(likelihoods: Likelihoods, muse: Muse, result: BenchmarkEvaluation, progress: Progress) -> None:
    """Exact memorization and extraction strength of the true continuations, as open-unlearning has them on MUSE.

    All tokens of a continuation count; open-unlearning's code leaves the last one out.
    """
    longest, tokenizer = likelihoods.encoder.max_length, likelihoods.encoder.tokenizer
    progress.stage("Likelihoods of forgotten passages", len(muse.verbatim))
    records = rows_of(result.records, VERBATIM)
    for index, (prompt, truth) in enumerate(muse.verbatim):
        (scores,) = likelihoods.tokens([continuation(tokenizer, prompt, truth, longest)])
        records[index].update(scores.memorization())
        progress.advance(1)
    for metric, name in (("exact_memorization", "Exact memorization"), ("extraction_strength", "Extraction strength")):
        result.more[name] = mean_score([record[metric] for record in records], f"the split of {VERBATIM}")
        result.sets[VERBATIM][metric] = result.more[name].value


def continuation(tokenizer: PreTrainedTokenizerBase, prompt: str, truth: str, longest: int) -> Encoded:
    """A plain text's beginning and its continuation, tokenised together; of one too long the beginning is cut off."""
    space = "" if prompt[-1:].isspace() or truth[:1].isspace() else " "
    before, whole = tokenizer(prompt).input_ids, tokenizer(prompt + space + truth).input_ids
    start = next((at for at, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
    start = min(max(start, 1), len(whole) - 1)  # something stands before the first token that is scored
    answer = whole[start:][: longest - 1]
    return Encoded(tuple(whole[:start][-(longest - len(answer)) :]), tuple(answer))


def privacy_records(likelihoods: Likelihoods, muse: Muse, gradients: bool, progress: Progress) -> list[list[Record]]:
    """What the attacks look at, of the forgotten and of the held-out passages."""
    sides = []
    for split, passages in muse.privacy.items():
        progress.stage(f"Likelihoods of the {split} passages", len(passages))
        examples = [Example((), text, {}, row) for row, text in enumerate(passages, start=1)]
        sides.append(membership_records(PRIVACY.format(split), likelihoods, examples, progress.advance))
        if gradients:
            progress.stage(f"Gradients of the {split} passages", len(passages))
            add_gradient_norms(sides[-1], examples, likelihoods, progress.advance)
    return sides


def add_privacy(result: BenchmarkEvaluation, sides: list[list[Record]], log: list[Record] | None) -> None:
    """The attacks on forgotten against held-out passages; PrivLeak is the Min-40% AUC beside a retrained model's."""
    for split, rows in zip(("forget", "holdout"), sides, strict=True):
        result.records += rows
        result.sets[PRIVACY.format(split)] = {"min_k": fmean(row["min_k"] for row in rows) if rows else None}
    lacks = "privleak/forget and privleak/holdout"
    if not all(sides):
        result.more |= {f"{MIN_K} AUC": one_value(None, lacks), "PrivLeak": one_value(None, "privleak passages")}
        return
    result.more |= attack_scores(*sides)
    if log is not None:
        result.more["PrivLeak"], note = leakage(sides, _log_sides(log))
    else:
        result.more["PrivLeak"] = one_value(None, "a retain-only model's records")
        note = (
            "PrivLeak compares with a model that never saw the forget set: evaluate that one with "
            "--records FILE, and give --retain-log FILE here."
        )
    if note:
        result.notes.append(note)


def _log_sides(log: list[Record]) -> list[list[Record]]:
    """The log's forget and held-out rows, by our names or by open-unlearning's."""
    return [
        [
            row
            for row in rows_of(log, PRIVACY.format(split)) or rows_of(log, split)
            if isinstance(row.get("min_k"), float)
        ]
        for split in ("forget", "holdout")
    ]


def check_log(muse: Muse, log: list[Record]) -> None:
    """Refuse a log that gives no PrivLeak, where there are passages for it.

    Raises:
        DataError: the log is of other data, or its AUC leaves PrivLeak nothing to divide by.
    """
    if not all(muse.privacy.values()):
        return
    sides = _log_sides(log)
    for (split, passages), rows in zip(muse.privacy.items(), sides, strict=True):
        told = [row["truth"] for row in rows if "truth" in row]
        if len(rows) != len(passages) or (told and told != passages):
            raise DataError(
                f"The retain-only model's log has {len(rows)} rows of privleak/{split} with min_k, this evaluation has "
                f"{len(passages)}{', of other texts' if len(rows) == len(passages) else ''}: evaluate both on the same "
                "data."
            )
    privacy_leakage(0.5, auc(*([row["min_k"] for row in rows] for rows in sides)))


def continuations(
    stack: Stack, prompts: Sequence[str], tokens: int, stage: str, result: BenchmarkEvaluation, progress: Progress
) -> list[str]:
    """Greedy continuations of plain texts; a prompt too long for the model keeps its end."""
    tokenizer, room = stack.base.tokenizer, positions(stack) - tokens
    ids = [tokenizer(prompt).input_ids for prompt in prompts]
    if too_long := sum(len(prompt) > room for prompt in ids):
        result.notes.append(
            f"{stage}: {too_long} of {len(ids)} prompts are longer than the base's context; their "
            "beginning was cut off."
        )
        ids = [prompt[-room:] for prompt in ids]
    progress.stage(stage, len(ids))
    rows = max(1, PASS_TOKENS // max((len(prompt) + tokens for prompt in ids), default=PASS_TOKENS))
    answers = generate_answers(
        stack.model, tokenizer, ids, batch_rows=rows, progress=progress.advance, new_tokens=tokens, whole=True
    )
    return [str(tokenizer.decode(answer, skip_special_tokens=True)) for answer in answers]


def cut(answer: str) -> str:
    """An answer up to where the model begins a question of its own."""
    for end in ENDS:
        answer = answer.split(end)[0]
    return answer


def finish(
    result: BenchmarkEvaluation,
    score_name: str,
    set_name: str,
    answers: Sequence[str],
    truths: Sequence[str],
    asked: Sequence[str],
) -> None:
    """Records, the set's means and the score."""
    rows: list[Record] = [
        {
            "set": set_name,
            "row": row,
            "question": question,
            "truth": truth,
            "answer": answer.strip(),
            "rouge_f1": rouge_l_f1(answer, truth),
            "gibberish": float(is_gibberish(answer)),
        }
        for row, (question, truth, answer) in enumerate(zip(asked, truths, answers, strict=True), start=1)
    ]
    result.records += rows
    result.sets[set_name] = {
        metric: fmean(row[metric] for row in rows) if rows else None for metric in ("rouge_f1", "gibberish")
    }
    result.more[score_name] = mean_score([row["rouge_f1"] for row in rows], f"the split of {set_name}")
