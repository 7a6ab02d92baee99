"""Every score of a model on question sets: a record a row, the means of each set."""

from collections.abc import Sequence

from asu_lora.data.encoding import cut_note
from asu_lora.evaluation.answer_scores import add_model_scores, answer_records
from asu_lora.evaluation.likelihoods import BLOCK, Likelihoods, other_answers
from asu_lora.evaluation.metrics.cosine_similarity import SentenceEncoder
from asu_lora.evaluation.metrics.entailment import Judge
from asu_lora.evaluation.question_sets import QuestionSet, is_forget
from asu_lora.evaluation.record import Record
from asu_lora.evaluation.result import Evaluation
from asu_lora.evaluation.set_means import means
from asu_lora.models.adapter_stack import Stack
from asu_lora.progress import Progress


def evaluate(
    stack: Stack,
    sets: Sequence[QuestionSet],
    encoder: SentenceEncoder | None = None,
    nli: Judge | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Score base + adapters on question sets. Passages are scored by likelihood alone, for they ask nothing.

    Args:
        stack: what :func:`asu_lora.load` gave.
        encoder, nli: the models behind cosine similarity and entailment; without one its score is missing.
        notes: said beside the scores (why a model is missing, say).

    Raises:
        AdapterError: the stack's base has other adapters on it by now.
    """
    stack.check()
    progress = progress or Progress()
    rows = stack.encoder()
    likelihoods = Likelihoods(stack, rows)
    result = Evaluation({}, [], list(notes))
    for questions in sets:
        asked = [example for example in questions.examples if not example.is_passage]
        others = [other for example in asked for other in other_answers(example)]
        for examples, name in ((asked, questions.name), (others, f"paraphrased and perturbed {questions.name}")):
            if note := cut_note(rows.encode_all(examples), rows.max_length, name):
                result.notes.append(note)
        records, endings = answer_records(stack, rows, questions, progress)
        if note := endings.note(f"The model, on the {questions.name} set,"):
            result.notes.append(note)
        add_likelihoods(records, questions, likelihoods, progress)
        add_model_scores(records, questions.examples, is_forget(questions.name), encoder, nli)
        result.records += records
        result.sets[questions.name] = means(records, questions.name)
        if note := passages_note(questions):
            result.notes.append(note)
    progress.close()
    return result


def add_likelihoods(
    records: Sequence[Record], questions: QuestionSet, likelihoods: Likelihoods, progress: Progress
) -> None:
    """Add every score by likelihood to a set's records, a block of rows at a time."""
    examples = questions.examples
    progress.stage(f"Likelihoods on the {questions.name} set", len(examples))
    for start in range(0, len(examples), BLOCK):
        part = slice(start, start + BLOCK)
        values = likelihoods.values(examples[part], questions.multiple_choice)
        for record, found in zip(records[part], values, strict=True):
            record.update(found)
        progress.advance(len(examples[part]))


def passages_note(questions: QuestionSet) -> str | None:
    """One sentence on the passages of a set; None without any."""
    passages = sum(example.is_passage for example in questions.examples)
    if not passages:
        return None
    return (
        f"{passages} of the {len(questions.examples)} rows of the {questions.name} set are passages: they ask nothing, "
        "so likelihoods alone score them (probability, memorization, membership)."
    )
