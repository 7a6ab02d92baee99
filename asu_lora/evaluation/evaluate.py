"""Every score of a model on question sets: records a question, means a set, MU, FE and their average."""

from collections.abc import Sequence
from statistics import fmean, geometric_mean

import torch

from asu_lora.data.encoding import Encoded, Encoder, cut_note
from asu_lora.data.examples import Example
from asu_lora.data.reference_answers import ORIGINAL, PARAPHRASED, PERTURBED, reference_answers
from asu_lora.evaluation.metrics.cosine_similarity import SentenceEncoder, cosine_similarity
from asu_lora.evaluation.metrics.entailment import EntailmentModel, entailment
from asu_lora.evaluation.metrics.extraction_strength import extraction_strength
from asu_lora.evaluation.metrics.gibberish import is_gibberish
from asu_lora.evaluation.metrics.min_k import min_k
from asu_lora.evaluation.metrics.probability import answer_probability, normalized_probability
from asu_lora.evaluation.metrics.rouge import rouge_l_recall
from asu_lora.evaluation.metrics.token_entropy import token_entropy
from asu_lora.evaluation.metrics.truth_ratio import truth_ratio, truth_ratio_forget, truth_ratio_retain
from asu_lora.evaluation.question_sets import FORGET, QuestionSet
from asu_lora.evaluation.result import Evaluation
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.answer_ends import Endings
from asu_lora.models.decoder import base_model
from asu_lora.models.generation import generate_answers
from asu_lora.models.hidden_states import hidden_states
from asu_lora.models.output_head import FrozenHead, label_logprob
from asu_lora.progress import Progress

BLOCK = 64  # questions whose hidden states are held at once


def evaluate(
    stack: Stack,
    sets: Sequence[QuestionSet],
    encoder: SentenceEncoder | None = None,
    nli: EntailmentModel | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Evaluation:
    """Score base + adapters on question sets.

    Args:
        stack: what :func:`asu_lora.load` gave.
        encoder, nli: the models behind cosine similarity and entailment; without one its score is missing.
        notes: said beside the scores (why a model is missing, say).
    """
    progress = progress or Progress()
    base = stack.base
    model = base_model(stack.model)
    head, tokens = FrozenHead(model), stack.encoder()
    result = Evaluation({}, [], list(notes))
    for questions in sets:
        examples = [example for example in questions.examples if not example.is_passage]
        if note := cut_note(tokens.encode_all(examples), tokens.max_length, questions.name):
            result.notes.append(note)
        progress.stage(f"Answers on the {questions.name} set", len(examples))
        prompts = [tokens.prompt_ids(example.prompt) for example in examples]
        endings = Endings()
        ids = generate_answers(stack.model, base.tokenizer, prompts, progress=progress.advance, endings=endings)
        if note := endings.note(f"{questions.name}: the model"):
            result.notes.append(note)
        answers = [base.tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in ids]
        progress.stage(f"Likelihoods on the {questions.name} set", len(examples))
        records = [
            {
                "set": questions.name,
                "row": example.row,
                "question": example.question,
                "truth": example.answer,
                "answer": answer,
                "rouge": rouge_l_recall(answer, example.answer),
                "token_entropy": token_entropy(tokens_of),
                "gibberish": float(is_gibberish(answer)),
            }
            for example, answer, tokens_of in zip(examples, answers, ids, strict=True)
        ]
        for start in range(0, len(examples), BLOCK):
            part = slice(start, start + BLOCK)
            for record, values in zip(
                records[part], likelihoods(model, head, tokens, examples[part], questions), strict=True
            ):
                record.update(values)
            progress.advance(len(examples[part]))
        by_models(records, examples, questions, encoder, nli)
        result.records += records
        result.sets[questions.name] = means(records, questions.name)
    progress.close()
    return result


def likelihoods(
    model: torch.nn.Module, head: FrozenHead, encoder: Encoder, examples: Sequence[Example], questions: QuestionSet
) -> list[dict[str, float | None]]:
    """Probability, truth ratio and memorization of each question, from one set of forward passes."""
    items: list[Encoded] = []
    spans = []
    for example in examples:
        paraphrased = reference_answers(example, PARAPHRASED) or (example.answer,)
        texts = [example.answer, *paraphrased, *reference_answers(example, PERTURBED)]
        spans.append((len(items), len(texts), len(paraphrased)))
        items += [encoder.encode(Example(example.prompt, text, {}, example.row))[0] for text in texts]
    states = hidden_states(model, items, encoder.tokenizer.pad_token_id)
    labels = [torch.tensor(item.answer_ids, device=hidden.device) for item, hidden in zip(items, states, strict=True)]
    nll = [-head.per_token(label_logprob, hidden, label) for hidden, label in zip(states, labels, strict=True)]
    found = []
    for start, count, words in spans:
        answer, *others = nll[start : start + count]
        paraphrased, perturbed = others[:words], others[words:]
        hits = head.per_token(_is_argmax, states[start], labels[start]).long()
        values: dict[str, float | None] = {
            "answer_probability": answer_probability(answer),
            "truth_ratio": _truth_ratio(paraphrased, perturbed) if perturbed else None,
            "exact_memorization": hits.float().mean().item(),
            "extraction_strength": extraction_strength(hits, torch.ones_like(hits)),
            "min_k": min_k(-answer),
        }
        values["probability"] = values["answer_probability"]
        if questions.multiple_choice:
            values["probability"] = normalized_probability(answer, perturbed) if perturbed else None
        found.append(values)
    return found


def _truth_ratio(paraphrased: Sequence[torch.Tensor], perturbed: Sequence[torch.Tensor]) -> float:
    """That of the paraphrase; several of them weigh alike."""
    ratios = [truth_ratio(one, perturbed) for one in paraphrased]
    return ratios[0] if len(ratios) == 1 else geometric_mean(ratios)


def _is_argmax(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(1) == labels).float()


def by_models(
    records: list[dict],
    examples: Sequence[Example],
    questions: QuestionSet,
    encoder: SentenceEncoder | None,
    nli: EntailmentModel | None,
) -> None:
    """Add the two scores that other models give; the truth is the full sentence where there is one."""
    truths = [next(iter(reference_answers(example, ORIGINAL)), example.answer) for example in examples]
    answers = [record["answer"] for record in records]
    similar = cosine_similarity(encoder, answers, truths) if encoder else [None] * len(records)
    entailed = (
        entailment(nli, answers, truths, [r["rouge"] for r in records], forget=questions.name == FORGET)
        if nli
        else [None] * len(records)
    )
    for record, cosine, entails in zip(records, similar, entailed, strict=True):
        record["cosine_similarity"] = cosine
        record["entailment"] = None if entails is None else float(entails)


def means(records: list[dict], name: str) -> dict[str, float | None]:
    """A set's means; the truth ratio's has its own rule, which differs on the forget set."""
    numeric = (
        "rouge",
        "probability",
        "truth_ratio",
        "token_entropy",
        "cosine_similarity",
        "entailment",
        "exact_memorization",
        "extraction_strength",
        "min_k",
        "gibberish",
    )
    found: dict[str, float | None] = {}
    for metric in numeric:
        values = [record[metric] for record in records]
        if not values or any(value is None for value in values):
            found[metric] = None
        elif metric == "truth_ratio":
            found[metric] = truth_ratio_forget(values) if name == FORGET else truth_ratio_retain(values)
        else:
            found[metric] = fmean(values)
    return found
