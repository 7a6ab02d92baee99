"""The student: the frozen base with the trainable adapter on, its final hidden states as output."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights
from transformers.modeling_layers import GradientCheckpointingLayer

from asu_lora.models.decoder import answer_hidden, base_model, decoder_and_layers, decoder_of
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.models.layer_outputs import layer_output
from asu_lora.models.renamed import renamed_quietly
from asu_lora.models.saved_adapter import save_adapter
from asu_lora.models.unpacked_weights import SHARE_OF_TRAINING, unpacked
from asu_lora.training.cast_recomputation import recompute_casts
from asu_lora.training.doses import NOTHING, Doses


class Student(torch.nn.Module):
    """The forward pass that training differentiates.

    The head is left out (losses run it on answer tokens alone), and rows come in passes of like length. One
    module with one ``forward`` so that ``DistributedDataParallel`` sees every use of the adapter.

    Args:
        model: the base with its adapter.
        gradient_checkpointing: recompute each layer in the backward pass.
        entry: where the layers begin that are run; they run inside :meth:`ready`.
        layer: a decoder layer whose states are handed out beside the final ones.

    Attributes:
        packs: whether it takes rows that are packed, on devices where they are.
        attacker: another adapter on it, which acts on the rows that a pass calls ``attacked``.
    """

    packs = True

    def __init__(
        self,
        model: PeftModel,
        gradient_checkpointing: bool = False,
        entry: FrozenLayers | None = None,
        layer: int | None = None,
    ):
        super().__init__()
        self.model = model
        self.entry = entry
        self.layer = layer
        self.doses = Doses(model)
        self.attacker: Doses | None = None
        self.checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            with renamed_quietly():
                base_model(model).gradient_checkpointing_enable({"use_reentrant": False, "context_fn": self._again})
            # transformers makes the embeddings need gradients, for checkpointing of the other kind: all layers would
            # run backward, and the hook would stay on the base
            base_model(model).disable_input_require_grads()

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, passes can be made: the layers below the entry don't run, 4-bit ones above lie unpacked on a CPU."""
        above = decoder_and_layers(self.model)[1][self.entry.first if self.entry is not None else 0 :]
        with (
            unpacked(*above, share=SHARE_OF_TRAINING),
            self.entry.replayed() if self.entry is not None else nullcontext(),
        ):
            yield

    def forward(self, passes: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """Final hidden states (T, H) at the answer positions of all passes, one pass after another.

        With a :attr:`layer`, (T, 2 H): beside each final state the one that leaves that layer.
        """
        states = []
        for batch in passes:
            with self.doses.given(batch.get("doses")), self._attacked(batch):
                states.append(pass_states(self.model, batch, self.entry, self.layer))
        return torch.cat(states)

    def _attacked(self, batch: Mapping[str, torch.Tensor]) -> AbstractContextManager[None]:
        """Inside, the attacker acts on the rows that the batch says, on none where it says nothing."""
        return self.attacker.given(batch.get("attacked", NOTHING)) if self.attacker else nullcontext()

    def _again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a checkpointed layer's two forward passes: the second acts as the first did."""
        acting = [self.doses, self.attacker] if self.attacker else [self.doses]
        return nullcontext(), together([doses.given(doses.now) for doses in acting])

    def pass_back(self) -> None:
        """The backward pass has come to an end."""

    def save(self, folder: str) -> None:
        """Write the adapter as a PEFT folder."""
        save_adapter(self.model, folder)

    def load(self, folder: str) -> None:
        """Take over the adapter that :meth:`save` wrote."""
        set_peft_model_state_dict(self.model, load_peft_weights(folder, device="cpu"))

    def train(self, mode: bool = True) -> "Student":
        """Only the adapter trains: the base's own dropout stays off, as it is off in teacher and reference."""
        super().train(False)
        self.training = mode
        for name, module in self.model.named_modules():
            if "lora_dropout" in name or (self.checkpointing and isinstance(module, GradientCheckpointingLayer)):
                module.training = mode  # of this module alone, not of what is in it
        return self


@contextmanager
def together(contexts: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    """All of these contexts at once."""
    with ExitStack() as entered:
        for context in contexts:
            entered.enter_context(context)
        yield


def pass_states(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor], entry: FrozenLayers | None, layer: int | None
) -> torch.Tensor:
    """Final hidden states of a pass at its answer positions, (t, H), or beside each that of a layer, (t, 2 H).

    Args:
        model: the base with whatever acts on it.
        entry: where the layers begin that are run, with the pass's states; it must be replayed.
        layer: a decoder layer whose states are wanted too.
    """
    if entry is not None:
        entry.states = batch["entry"]
    with recompute_casts(), layer_output(base_model(model), layer) as inner:
        final = answer_hidden(decoder_of(model), batch)
    beside = [each.flatten(0, 1)[batch["positions"]] for each in inner]
    return torch.cat([final, *beside], 1) if beside else final
