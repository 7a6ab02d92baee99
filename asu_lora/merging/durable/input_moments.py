"""What the layers of base + adapters are fed: the second moment of each module's inputs."""

from collections.abc import Callable, Sequence

import torch

from asu_lora.batches.forward_passes import forward_passes
from asu_lora.data.encoding import Encoded
from asu_lora.errors import AdapterError
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.decoder import base_model, decoder_and_layers

MOST_TOKENS = 4096  # in one forward pass
MOST_BYTES = 2 << 30  # of moments held at once


class InputMoments:
    """Second moments, collected when they are asked for, some modules ahead, and dropped when they were used.

    Memory: the loaded stack, one forward pass, and at most ``most_bytes`` of moments (but one module's at
    least): 4 in^2 bytes a module. When that does not hold all modules, the questions are passed through the
    model again for the next ones.

    Args:
        stack: base + adapters, active as they are to be merged.
        sets: encoded rows; each set counts the same, however long it is.
        order: modules in the order in which they will be asked for.
        heard: called with the number of modules after each collection.
    """

    def __init__(
        self,
        stack: Stack,
        sets: Sequence[Sequence[Encoded]],
        order: Sequence[str],
        most_bytes: int = MOST_BYTES,
        heard: Callable[[int], None] | None = None,
    ):
        self.stack, self.most_bytes, self.heard = stack, most_bytes, heard
        self.sets = [items for items in sets if items]
        self.waiting = list(order)
        base = base_model(stack.model)
        self.decoder = decoder_and_layers(stack.model)[0]
        modules = dict(base.named_modules())
        missing = [name for name in order if name not in modules]
        if missing:
            raise AdapterError(f"The loaded base has no module {missing[0]}.")
        self.modules = {name: modules[name] for name in order}
        self.held: dict[str, torch.Tensor] = {}

    def take(self, module: str) -> torch.Tensor:
        """H = mean x x^T, (in, in) fp32 on the CPU, over all tokens of the sets; given away once."""
        if module not in self.held:
            self._collect(module)
        return self.held.pop(module)

    def _collect(self, first: str) -> None:
        ahead: list[str] = []
        size = 0
        for name in self.waiting[self.waiting.index(first) :]:
            size += 4 * self.modules[name].in_features ** 2
            if ahead and size > self.most_bytes:
                break
            ahead.append(name)
        self.waiting = [name for name in self.waiting if name not in ahead]
        for items in self.sets:
            sums, tokens = self._sums(ahead, items)
            for name in ahead:
                # an expert that no token was sent to has no sum
                size = self.modules[name].in_features
                share = sums[name].cpu() / (tokens * len(self.sets)) if name in sums else torch.zeros(size, size)
                self.held[name] = self.held[name] + share if name in self.held else share
        if self.heard:
            self.heard(len(ahead))

    @torch.no_grad()
    def _sums(self, names: Sequence[str], items: Sequence[Encoded]) -> tuple[dict[str, torch.Tensor], int]:
        sums: dict[str, torch.Tensor] = {}
        real, tokens = None, 0

        def hook_of(name: str):
            def add(_module, args):
                inputs = args[0].reshape(-1, args[0].shape[-1])[real].float()
                sums[name] = sums[name].addmm_(inputs.T, inputs) if name in sums else inputs.T @ inputs

            return add

        hooks = [self.modules[name].register_forward_pre_hook(hook_of(name)) for name in names]
        device = self.stack.base.device
        try:
            for _, batch in forward_passes(items, self.stack.base.tokenizer.pad_token_id, MOST_TOKENS):
                mask = batch["attention_mask"].to(device)
                real, tokens = mask.flatten().bool(), tokens + int(mask.sum())
                self.decoder(input_ids=batch["input_ids"].to(device), attention_mask=mask, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return sums, tokens
