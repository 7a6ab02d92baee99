"""MUSE, News and Books (arXiv 2407.06460): verbatim memorization, knowledge memorization, privacy leakage.

As its authors' code asks: plain text without a chat template, example questions before each question, greedy
answers, ROUGE-L F1 without stemming.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError
from asu_lora.evaluation.membership import min_k_scores
from asu_lora.evaluation.metrics.auc import auc
from asu_lora.evaluation.metrics.gibberish import is_gibberish
from asu_lora.evaluation.metrics.privacy_leakage import privacy_leakage
from asu_lora.evaluation.metrics.rouge import rouge_l_f1
from asu_lora.evaluation.retain_log import log_min_k
from asu_lora.evaluation.suites.benchmark import BenchmarkEvaluation, one_value, read_split, texts
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.decoder import base_model
from asu_lora.models.generation import generate_answers
from asu_lora.models.output_head import FrozenHead
from asu_lora.progress import Progress

VERBATIM_TOKENS, KNOWLEDGE_TOKENS = 128, 32  # of an answer, as in the authors' code
ENDS = ("\n\n", "\nQuestion", "Question:")  # where a model goes on to a question of its own
LONGEST = 4096  # tokens of a passage in one window
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
    stack: Stack, muse: Muse, log: list[dict] | None = None, progress: Progress | None = None
) -> BenchmarkEvaluation:
    """VerbMem, KnowMem on both halves, the Min-40% AUC and PrivLeak.

    Args:
        log: the records of a model that never saw the forget set, on the same data (see
            :func:`asu_lora.evaluation.retain_log.read_log`); PrivLeak compares with it and is missing without.
    """
    progress = progress or Progress()
    result = BenchmarkEvaluation({}, [])
    retrained = retrained_auc(muse, log) if log is not None else None  # before hours of work: it may not fit
    verbatim(stack, muse, result, progress)
    for half in HALVES:
        knowledge(stack, muse, half, result, progress)
    privacy(stack, muse, retrained, result, progress)
    progress.close()
    return result


def verbatim(stack: Stack, muse: Muse, result: BenchmarkEvaluation, progress: Progress) -> None:
    """VerbMem: mean ROUGE-L F1 of the greedy continuation against the true one's first 128 tokens."""
    tokenizer = stack.base.tokenizer
    prompts, truths = [pair[0] for pair in muse.verbatim], [pair[1] for pair in muse.verbatim]
    starts = [
        tokenizer.decode(tokenizer(truth).input_ids[:VERBATIM_TOKENS], skip_special_tokens=True) for truth in truths
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


def privacy(stack: Stack, muse: Muse, retrained: float | None, result: BenchmarkEvaluation, progress: Progress) -> None:
    """PrivLeak: the Min-40% AUC of forgotten against held-out passages, relative to a retrained model's."""
    model = base_model(stack.model)
    head, encoder = FrozenHead(model), Encoder(stack.base.tokenizer, max_length=min(LONGEST, positions(stack)))
    scores = {}
    for split, passages in muse.privacy.items():
        progress.stage(f"Likelihoods of the {split} passages", len(passages))
        examples = [Example((), text, {}, row) for row, text in enumerate(passages, start=1)]
        scores[split] = min_k_scores(model, head, encoder, examples, progress.advance)
        name = PRIVACY.format(split)
        result.records += [
            {"set": name, "row": row, "min_k": value} for row, value in enumerate(scores[split], start=1)
        ]
        result.sets[name] = {"min_k": fmean(scores[split]) if scores[split] else None}
    both = all(scores.values())
    unlearned = auc(scores["forget"], scores["holdout"]) if both else None
    result.more["Min-40% AUC"] = one_value(unlearned, "privleak/forget and privleak/holdout")
    leakage = None
    if both and retrained is not None:
        leakage = privacy_leakage(unlearned, retrained)
    elif both:
        result.notes.append(
            "PrivLeak compares with a model that never saw the forget set: evaluate that one with "
            "--records FILE, and give --retain-log FILE here."
        )
    result.more["PrivLeak"] = one_value(leakage, "a retain-only model's records" if both else "privleak passages")


def retrained_auc(muse: Muse, log: list[dict]) -> float | None:
    """The retain-only model's Min-40% AUC; None without passages.

    Raises:
        DataError: the log is of other data, or its AUC leaves PrivLeak nothing to divide by.
    """
    if not all(muse.privacy.values()):
        return None
    found = auc(*(log_min_k(log, PRIVACY.format(split), len(texts_of)) for split, texts_of in muse.privacy.items()))
    privacy_leakage(0.5, found)
    return found


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
    return [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]


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
    rows = [
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
    result.more[score_name] = one_value(result.sets[set_name]["rouge_f1"], f"the split of {set_name}")


def positions(stack: Stack) -> int:
    """How many tokens the base can attend to."""
    config = base_model(stack.model).config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or LONGEST
