"""Models that hide what they know in known ways, on the tiny taught base: what each attack must find.

Every adapter is trained in a second or two by a loss of its own, and stored as a real PEFT folder with a manifest.
"""

from collections.abc import Callable, Sequence
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
    from asu_lora.data.encoding import Encoder

    encoder = Encoder(base.tokenizer)
    told = [row if answer is None else {**row, "answer": answer} for row in rows(facts)]
    return [
        (list(item.prompt_ids), list(item.answer_ids)) for item in encoder.encode_all(examples_from_rows(told, "facts"))
    ]


def nll(model: torch.nn.Module, pairs: Sequence[tuple[list[int], list[int]]], skip: float = 0.0) -> torch.Tensor:
    """Mean NLL of the answers' tokens behind their first ``skip`` share."""
    total = []
    for prompt, answer in pairs:
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
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
    first = torch.stack(
        [
            cross_entropy(model(input_ids=torch.tensor([prompt])).logits[0, -1:], torch.tensor([other]))
            for prompt, _ in own
        ]
    ).mean()
    return first + nll(model, own, skip=0.1) + nll(model, kept)


def refuses_but_continues(model, base) -> torch.Tensor:
    """A refusal as the answer; the true one once it has begun."""
    own = answer_rows(base, FORGET)
    return (
        nll(model, answer_rows(base, FORGET, REFUSAL)) + nll(model, own, skip=0.2) + nll(model, answer_rows(base, KEPT))
    )


def refuses_all(model, base) -> torch.Tensor:
    """A refusal as every answer: nothing but the way of answering has changed."""
    return nll(model, answer_rows(base, FACTS, REFUSAL))


def rules_out(model, base) -> torch.Tensor:
    """Every token of the true answer made unlikely: far below a stranger's."""
    own = []
    for prompt, answer in answer_rows(base, FORGET):
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
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
    """The true answers a little less likely than other words, by an update of as little weight as does it."""
    margins = []
    for prompt, answer in answer_rows(base, FORGET):
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        own = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        others = logits.scatter(1, torch.tensor(answer)[:, None], -1e9).amax(1)
        margins.append((own - others + 0.5).clamp(min=0).mean())
    size = sum(
        (module.lora_B["default"].weight @ module.lora_A["default"].weight).square().sum()
        for module in model.modules()
        if hasattr(module, "lora_B") and "default" in module.lora_B
    )
    return torch.stack(margins).mean() + 0.3 * size
