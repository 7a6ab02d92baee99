"""A model's own answers to a set's questions, and the scores that compare them with the truth."""

from collections.abc import Sequence

from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example
from asu_lora.data.reference_answers import ORIGINAL, reference_answers
from asu_lora.evaluation.metrics.cosine_similarity import SentenceEncoder, cosine_similarity
from asu_lora.evaluation.metrics.entailment import Judge, entailment
from asu_lora.evaluation.metrics.gibberish import is_gibberish
from asu_lora.evaluation.metrics.rouge import rouge_l_recall
from asu_lora.evaluation.metrics.token_entropy import token_entropy
from asu_lora.evaluation.question_sets import QuestionSet
from asu_lora.evaluation.record import Record
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.answer_ends import Endings
from asu_lora.models.generation import LEAST_ANSWER, generate_answers
from asu_lora.progress import Progress


def answer_records(
    stack: Stack, encoder: Encoder, questions: QuestionSet, progress: Progress
) -> tuple[list[Record], Endings]:
    """One record a row: its texts, and for a question the greedy answer with ROUGE, token entropy and gibberish.

    A passage asks nothing: its record has no answer. Beside the records: how the answers ended.
    """
    asked = [example for example in questions.examples if not example.is_passage]
    progress.stage(f"Answers on the {questions.name} set", len(asked))
    prompts = [encoder.prompt_ids(example.prompt) for example in asked]
    endings = Endings()
    ids = generate_answers(
        stack.model, stack.base.tokenizer, prompts, least=LEAST_ANSWER, progress=progress.advance, endings=endings
    )
    answers = iter(ids)
    records = []
    for example in questions.examples:
        record: Record = {
            "set": questions.name,
            "row": example.row,
            "question": example.question,
            "truth": example.answer,
        }
        if not example.is_passage:
            tokens = next(answers)
            answer = str(stack.base.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
            record |= {
                "answer": answer,
                "rouge": rouge_l_recall(answer, example.answer),
                "token_entropy": token_entropy(tokens),
                "gibberish": float(is_gibberish(answer)),
            }
        records.append(record)
    return records, endings


def full_answer(example: Example) -> str:
    """The truth as a full sentence, where a row has one (TOFU's ``original_answer``); else the answer."""
    return next(iter(reference_answers(example, ORIGINAL)), example.answer)


def add_model_scores(
    records: Sequence[Record],
    examples: Sequence[Example],
    forget: bool,
    encoder: SentenceEncoder | None,
    nli: Judge | None,
) -> None:
    """Add cosine similarity and entailment to a set's records; the truth is the full sentence where there is one.

    Args:
        forget: whether it is the set to forget, whose entailment runs from answer to truth.
        encoder, nli: None leaves its score missing.
    """
    pairs = [(record, full_answer(example)) for record, example in zip(records, examples, strict=True)]
    pairs = [(record, truth) for record, truth in pairs if "answer" in record]
    asked, truths = [record for record, _ in pairs], [truth for _, truth in pairs]
    answers, rouge = [record["answer"] for record in asked], [record["rouge"] for record in asked]
    nothing: list[None] = [None] * len(asked)
    similar = cosine_similarity(encoder, answers, truths) if encoder and asked else nothing
    entailed = entailment(nli, answers, truths, rouge, forget) if nli and asked else nothing
    for record, cosine, entails in zip(asked, similar, entailed, strict=True):
        record["cosine_similarity"] = cosine
        record["entailment"] = None if entails is None else float(entails)
