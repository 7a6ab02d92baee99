"""Greedy answers to many questions: batched by length, stopped at the end of the turn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from asu_lora.data.chat_template import stop_ids
from asu_lora.data.encoding import Encoded
from asu_lora.hardware.memory import release_freed_memory
from asu_lora.models.decoder import base_model

TOTAL_TOKENS = 200  # prompt and answer together, as in "A Closer Look at Machine Unlearning for LLMs"
MOST_ROWS = 80  # answered at once; more is no faster
KEYS_AND_VALUES = 750_000_000  # bytes of them that the answers of one batch may fill: fewer rows of a large model
GIVEN_BACK = 16  # tokens after which freed memory goes back to the system


@torch.no_grad()
def generate_answers(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    total_tokens: int = TOTAL_TOKENS,
    batch_rows: int | None = None,
    progress: Callable[[int], None] | None = None,
    new_tokens: int | None = None,
) -> list[list[int]]:
    """Answer every prompt greedily.

    Args:
        model: the causal LM, with whatever adapters are active.
        prompts: token ids of each prompt.
        total_tokens: most tokens of prompt and answer together (at least 16 are left for the answer), for
            each prompt by its own length, whatever prompts stand beside it.
        batch_rows: prompts answered at once, by default as :func:`batches` says.
        progress: called with the number of prompts of each finished batch.
        new_tokens: most tokens of an answer, however long its prompt, instead of ``total_tokens``.

    Returns:
        The token ids of each answer, without the end-of-turn token.
    """

    def room(prompt_tokens: int) -> int:
        return new_tokens or max(16, total_tokens - prompt_tokens)

    stops = stop_ids(tokenizer)
    answers: list[list[int]] = [[]] * len(prompts)
    training = model.training
    model.eval()
    try:
        for rows in batches(model, list(map(len, prompts)), room, batch_rows):
            width, shortest = len(prompts[rows[0]]), len(prompts[rows[-1]])
            ids = torch.full((len(rows), width), tokenizer.pad_token_id)
            mask = torch.zeros_like(ids)
            for at, row in enumerate(rows):
                ids[at, width - len(prompts[row]) :] = torch.tensor(prompts[row])
                mask[at, width - len(prompts[row]) :] = 1
            greedy = GenerationConfig(
                do_sample=False, max_new_tokens=room(shortest), eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
            )
            with _only_setting(model, greedy):
                output = model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    stopping_criteria=StoppingCriteriaList([_GiveBack()]),
                )
            for row, tokens in zip(rows, output[:, width:].tolist(), strict=True):
                tokens = tokens[: room(len(prompts[row]))]
                ends = [at for at, token in enumerate(tokens) if token in stops]
                answers[row] = tokens[: ends[0]] if ends else tokens
            if progress:
                progress(len(rows))
    finally:
        model.train(training)
        release_freed_memory()
    return answers


def batches(
    model: torch.nn.Module, lengths: Sequence[int], room: Callable[[int], int], batch_rows: int | None = None
) -> list[list[int]]:
    """Which prompts are answered together: those of like length, the longest first.

    As many as the keys and values of prompts and answers allow, by their size and not by what memory is free:
    arithmetic in 16 bits depends on the batch, and the same run must give the same answers on every machine.

    Args:
        lengths: tokens of each prompt.
        room: the most tokens of an answer, by the length of its prompt.
        batch_rows: that many, instead.
    """
    order, found, size = sorted(range(len(lengths)), key=lambda i: -lengths[i]), [], key_value_bytes(model)
    while order:
        width = lengths[order[0]]
        rows = batch_rows or max(1, min(MOST_ROWS, KEYS_AND_VALUES // (size * (width + room(width)))))
        found.append(order[:rows])
        order = order[rows:]
    return found


def key_value_bytes(model: torch.nn.Module) -> int:
    """Memory of one token's keys and values in all layers, as the config tells; an estimate for the architectures whose
    configs tell it otherwise (layers of several kinds, or with a state instead)."""
    model = base_model(model)
    config = model.config.get_text_config()
    try:
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        stored = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or heads
        if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
            stored = 1  # Falcon's first kind
        numbers = stored * size
    except (AttributeError, RuntimeError):  # none, or another one in every layer
        numbers = config.hidden_size
    return 2 * config.num_hidden_layers * numbers * model.dtype.itemsize


class _GiveBack(StoppingCriteria):
    """Stops nothing: on the CPU, gives freed memory back now and then.

    With every token keys and values move to new places a little larger, and glibc keeps the old ones: SmolLM2's answers
    to 40 questions took 0.45 GB and left as much behind; this way they take 0.34 and leave 0.05.
    """

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        if input_ids.device.type == "cpu" and input_ids.shape[1] % GIVEN_BACK == 0:
            release_freed_memory()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def _only_setting(model: torch.nn.Module, config: GenerationConfig) -> Iterator[None]:
    """Inside, the model generates by ``config`` alone.

    A checkpoint's own settings (a repetition penalty, say) would fill whatever a config that is handed to
    ``generate`` leaves open, and a greedy answer is the model's, not its settings'.
    """
    base = base_model(model)
    kept, base.generation_config = base.generation_config, config
    try:
        yield
    finally:
        base.generation_config = kept


def enough_tokens(items: Sequence[Encoded], prompts: Sequence[Sequence[int]]) -> int:
    """Tokens of prompt and answer together: room for half as much again as the longest true answer, at most 200.

    An answer that rambles on beyond that says nothing new, and waiting for it would double the time of a run.
    """
    longest = max((len(item.answer_ids) for item in items), default=0)
    return min(TOTAL_TOKENS, max(map(len, prompts), default=0) + longest * 3 // 2 + 8)
