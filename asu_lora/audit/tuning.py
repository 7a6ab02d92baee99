"""An attacker's own fine-tuning: a fresh LoRA on whatever is audited, trained a few steps at a time.

The layout of 4-bit weights that :func:`asu_lora.models.loading.keep_trainable_layout` keeps is what makes this honest:
with repacked weights, gradients are silently wrong on CPUs with AVX512-BF16, and the attack looks harmless.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from peft import LoraConfig, LoraModel, PeftModel, get_peft_model
from transformers import PreTrainedModel

from asu_lora.audit.models import View
from asu_lora.audit.settings import BATCH
from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.token_budget import tokens_of_training
from asu_lora.config import ALL_LINEAR
from asu_lora.data.encoding import Encoded
from asu_lora.models.adapter_loading import take_off
from asu_lora.models.decoder import answer_hidden, base_model, decoder_of
from asu_lora.models.output_head import label_logprob
from asu_lora.models.renamed import renamed_quietly
from asu_lora.training.target_modules import target_modules

ATTACK = "attack"  # PEFT's name of the attacker's adapter
RANK = 16
CLIP = 1.0  # gradient norm


@dataclass
class Tuner:
    """The adapter being trained. Made by :func:`tuner`.

    Attributes:
        steps: made so far.
    """

    view: View
    peft: PeftModel
    items: Sequence[Encoded]
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    steps: int = 0

    def train_to(self, step: int) -> None:
        """Train up to this step, on batches of rows in random order; mean NLL of the answers' tokens."""
        while self.steps < step:
            rows = [self.items[int(at)] for at in self._next_rows()]
            total = sum(len(item.answer_ids) for item in rows)
            self.optimizer.zero_grad()
            self._backward(rows, total)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            self.optimizer.step()
            self.steps += 1

    def _next_rows(self) -> list[int]:
        """A batch; every row once before any comes again."""
        count, size = len(self.items), min(BATCH, len(self.items))
        if not hasattr(self, "_waiting") or len(self._waiting) < size:
            self._waiting: list[int] = torch.randperm(count, generator=self.generator).tolist()
        taken, self._waiting = self._waiting[:size], self._waiting[size:]
        return taken

    def _backward(self, rows: Sequence[Encoded], total: int) -> None:
        decoder, head, device = decoder_of(self.peft), self.view.head(), self.view.base.device
        most = tokens_of_training(device)
        for group, batch in forward_passes(rows, self.view.base.pad_id, most):
            hidden = answer_hidden(decoder, {key: value.to(device) for key, value in batch.items()})
            labels = torch.tensor([token for at in group for token in rows[at].answer_ids], device=device)
            (-head.per_token(label_logprob, hidden, labels).sum() / total).backward()


@contextmanager
def tuner(view: View, items: Sequence[Encoded], rate: float, seed: int) -> Iterator[Tuner]:
    """A fresh adapter on the view's model, which is on; after the block it is gone and the model as it was.

    Args:
        items: the rows to train on.
        rate: AdamW's learning rate, constant.
    """
    model = view.model
    targets = target_modules(model, ALL_LINEAR)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=targets.names,
        exclude_modules=targets.exclude,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft = _add(model, config, view.adapters)
    parameters = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    try:
        yield Tuner(
            view,
            peft,
            items,
            torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0),
            torch.Generator().manual_seed(seed),
        )
    finally:
        _drop(view, peft)


def _add(model: torch.nn.Module, config: LoraConfig, active: Sequence[str]) -> PeftModel:
    peft: PeftModel
    if not isinstance(model, PeftModel):
        with renamed_quietly():
            peft = cast(PeftModel, get_peft_model(cast(PreTrainedModel, model), config, ATTACK))
    else:
        peft = model
        peft.add_adapter(ATTACK, config)
        layers = cast(LoraModel, peft.base_model)
        layers.enable_adapter_layers()
        layers.set_adapter([*active, ATTACK])
    for name, parameter in peft.named_parameters():
        parameter.requires_grad_(f".{ATTACK}." in name)
    peft.eval()
    return peft


def _drop(view: View, peft: PeftModel) -> None:
    stacked = isinstance(view.model, PeftModel)
    if not stacked:
        take_off(base_model(peft))
    else:
        layers = cast(LoraModel, peft.base_model)
        others = [name for name in peft.peft_config if name != ATTACK]
        layers.set_adapter(others, inference_mode=True)
        peft.delete_adapter(ATTACK)
        if not view.adapters:  # inside without_adapters: off again, as it was
            layers.disable_adapter_layers()
    peft.requires_grad_(False)
    base_model(view.model).eval()
