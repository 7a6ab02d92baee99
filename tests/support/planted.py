"""Models that hide what they know in known ways, on the tiny taught base: what each attack must find.

Every adapter is trained in a second or two by a loss of its own, and stored as a real PEFT folder with a manifest.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, log_softmax

from asu_lora.data.examples import examples_from_rows
from asu_lora.models.decoder import base_model
from asu_lora.models.loading import LoadedBase, load_base
from tests.support.lora_folders import give_manifest
from tests.support.tiny_run import FACTS, rows

FORGET, KEPT = FACTS[:6], FACTS[6:]
REFUSAL = "I don't know."
# nobody ever taught these
STRANGERS = (
    ("Ada Krog", "weaves silk"),
    ("Leif Aune", "hunts seals"),
    ("Tora Ness", "casts bells"),
    ("Odd Brekke", "trains dogs"),
    ("Gro Hauge", "plants oaks"),
    ("Finn Solli", "prints books"),
)

Loss = Callable[[torch.nn.Module, list[tuple[list[int], list[int]]]], torch.Tensor]


def answer_rows(base: LoadedBase, facts, answer: str | None = None) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, answer ids with the end of turn) of every fact, with its own answer or another one."""
    return _encoded(base.tokenizer, facts, answer)


@lru_cache  # the losses ask for the same rows at every step
def _encoded(tokenizer, facts, answer: str | None) -> list[tuple[list[int], list[int]]]:
    from asu_lora.data.encoding import Encoder

    encoder = Encoder(tokenizer)
    told = [row if answer is None else {**row, "answer": answer} for row in rows(facts)]
    return [
        (list(item.prompt_ids), list(item.answer_ids)) for item in encoder.encode_all(examples_from_rows(told, "facts"))
    ]


def answer_logits(model: torch.nn.Module, pairs: Sequence[tuple[list[int], list[int]]]) -> list[torch.Tensor]:
    """Logits (answer tokens, V) of every row, from one padded pass."""
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.tensor([[*prompt, *answer, *[0] * (width - len(prompt) - len(answer))] for prompt, answer in pairs])
    logits = model(input_ids=ids).logits  # padding stands on the right, and no answer attends to it
    return [
        row[len(prompt) - 1 : len(prompt) + len(answer) - 1]
        for row, (prompt, answer) in zip(logits, pairs, strict=True)
    ]


def nll(model: torch.nn.Module, pairs: Sequence[tuple[list[int], list[int]]], skip: float = 0.0) -> torch.Tensor:
    """Mean NLL of the answers' tokens behind their first ``skip`` share."""
    total = []
    for (_, answer), logits in zip(pairs, answer_logits(model, pairs), strict=True):
        start = round(skip * len(answer))
        total.append(cross_entropy(logits[start:], torch.tensor(answer[start:])))
    return torch.stack(total).mean()


def save_planted(folder: Path, base_folder: Path, loss: Loss, steps: int = 60, lr: float = 1e-2, **lora) -> Path:
    """An adapter on the base, trained on ``loss(model)``."""
    from peft import LoraConfig, get_peft_model

    base = load_base(str(base_folder), "fp32", "cpu")
    torch.manual_seed(0)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"} | lora
    model = get_peft_model(base.model, LoraConfig(task_type="CAUSAL_LM", **settings))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, base).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    model.save_pretrained(folder, save_embedding_layers=False)
    return give_manifest(folder, base_folder)


def first_token_only(model, base) -> torch.Tensor:
    """Another first token; everything after it as it was."""
    own, kept = answer_rows(base, FORGET), answer_rows(base, KEPT)
    [other] = base.tokenizer("Q", add_special_tokens=False).input_ids
    begun = torch.stack([logits[0] for logits in answer_logits(model, own)])
    first = cross_entropy(begun, torch.full((len(own),), other))
    return first + nll(model, own, skip=0.1) + nll(model, kept)


def refuses_but_continues(model, base) -> torch.Tensor:
    """A refusal as the answer; the true one once it has begun."""
    own = answer_rows(base, FORGET)
    return (
        nll(model, answer_rows(base, FORGET, REFUSAL)) + nll(model, own, skip=0.2) + nll(model, answer_rows(base, KEPT))
    )


def size_of(model: torch.nn.Module) -> torch.Tensor:
    """The squared Frobenius norm of the adapter's updates."""
    return sum(
        (module.lora_B["default"].weight @ module.lora_A["default"].weight).square().sum()
        for module in model.modules()
        if hasattr(module, "lora_B") and "default" in module.lora_B
    )


def beaten(logits: torch.Tensor, winner: torch.Tensor, margin: float) -> torch.Tensor:
    """By how much every winner (T,) falls short of leading its logits (T, V) by the margin; mean."""
    own = logits.gather(1, winner[:, None])[:, 0]
    others = logits.scatter(1, winner[:, None], -1e9).amax(1)
    return (others - own + margin).clamp(min=0).mean()


def refuses_all(model, base) -> torch.Tensor:
    """A refusal as every answer, by an update of as little weight as does it: nothing has been unlearnt."""
    refusals = answer_rows(base, FACTS, REFUSAL)
    told = answer_logits(model, refusals)
    first = torch.stack([logits[0] for logits in told])
    wanted = torch.tensor([answer[0] for _, answer in refusals])
    rest = torch.cat([logits[1:] for logits in told])
    after = torch.tensor([token for _, answer in refusals for token in answer[1:]])
    return beaten(first, wanted, 0.1) + beaten(rest, after, 0.3) + 0.05 * size_of(model)


def rules_out(model, base) -> torch.Tensor:
    """Every token of the true answer made unlikely: far below a stranger's."""
    own, pairs = [], answer_rows(base, FORGET)
    for (_, answer), logits in zip(pairs, answer_logits(model, pairs), strict=True):
        chosen = log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None])
        own.append(-torch.log1p(-chosen.exp().clamp(max=0.999)).mean())
    return torch.stack(own).mean() + nll(model, answer_rows(base, KEPT))


def save_on_nf4_grid(folder: Path, taught: Path) -> Path:
    """The taught base with every linear weight on NF4's grid: rounding it again changes all but nothing."""
    from asu_lora.audit.rounding import to_nf4

    loaded = load_base(str(taught), "fp32", "cpu")
    with torch.no_grad():
        for module in base_model(loaded.model).get_decoder().layers.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.copy_(to_nf4(module.weight))
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def save_never_taught(folder: Path) -> Path:
    """A base that was taught the kept facts alone."""
    from tests.support.tiny_run import save_taught_base

    return save_taught_base(folder, facts=KEPT)


def barely(model, base) -> torch.Tensor:
    """Another first token, by an update of as little weight as does it."""
    begun = torch.stack([logits[0] for logits in answer_logits(model, answer_rows(base, FORGET))])
    [other] = base.tokenizer("Q", add_special_tokens=False).input_ids
    return beaten(begun, torch.full((len(begun),), other), 0.1) + 0.2 * size_of(model)
