"""The two models behind scores, or why they can't be had."""

from asu_lora.evaluation.entailment_judge import EntailmentJudge
from asu_lora.evaluation.metrics.cosine_similarity import SentenceEncoder, default_encoder
from asu_lora.evaluation.metrics.entailment import DEFAULT_NLI, EntailmentModel, Judge
from asu_lora.evaluation.pretrained import ScoreUnavailable


def scoring_models(
    encoder: str | None = None, nli: str | None = None
) -> tuple[SentenceEncoder | None, Judge | None, list[str]]:
    """Sentence encoder and NLI model by name, each None with a note where it can't be had.

    An ``nli`` that is an address (http://127.0.0.1:8000/v1) is a language model that is asked as a judge.

    A model that the user named must be there: its error is raised, not noted.
    """
    notes: list[str] = []
    try:
        sentence = SentenceEncoder(encoder) if encoder else default_encoder()
        notes.append(f"Cosine similarity by {sentence.name}.")
    except ScoreUnavailable as error:
        if encoder:
            raise
        sentence = None
        notes.append(str(error))
    entailment: Judge | None = None
    try:
        served = nli is not None and "://" in nli
        entailment = EntailmentJudge(str(nli)) if served else EntailmentModel(nli or DEFAULT_NLI)
    except ScoreUnavailable as error:
        if nli:
            raise
        notes.append(str(error))
    return sentence, entailment, notes
