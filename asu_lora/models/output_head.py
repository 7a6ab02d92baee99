"""The base's output head, run on answer positions alone and a chunk of tokens at a time.

The head is frozen, so a per-token loss depends on its token's hidden state alone. That makes its gradient
available in the forward pass: for a chunk of tokens the logits are built, the loss and its derivative by the
hidden states taken, and the logits dropped. Memory is chunk x vocabulary, whatever the number of tokens.
(The idea of a loss that takes hidden states and never full logits: Liger-Kernel, arXiv 2410.10989.)
"""

from collections.abc import Callable

import torch

from asu_lora.errors import BaseModelError, first_line
from asu_lora.hardware.memory import is_out_of_memory
from asu_lora.models.decoder import base_model, decoder_of, text_config

# Logits held at once: 32 MiB in fp32. Of 262,144 words that are 32 tokens, whose logits take a CPU two thirds of the
# time that they take 16 at a time; 64 at a time gain little.
CHUNK_ELEMENTS = 1 << 23


class FrozenHead:
    """Hidden states to fp32 logits, for one base.

    Args:
        model: a transformers causal LM (not wrapped by PEFT).
        device: where it will run, if its weights aren't there but on the meta device.

    Raises:
        BaseModelError: the model's logits aren't what its head makes of its final hidden states.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device | None = None):
        self.name = type(model).__name__
        module = base_model(model).get_output_embeddings()
        if module is None:
            raise BaseModelError(f"{self.name} has no output head that asu-lora can find.")
        self.module: torch.nn.Linear = module
        self.device = device or module.weight.device
        config = text_config(model)
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        # Cohere multiplies, Granite divides
        factors = (getattr(config, name, None) for name in ("logit_scale", "logits_scaling"))
        scale, divisor = (factor if isinstance(factor, (int, float)) else 1.0 for factor in factors)
        self.scale: float = scale / divisor
        if next(self.module.parameters()).device.type != "meta":
            self._check(model)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (T, V) in fp32 of final hidden states (T, H)."""
        logits = self.module(hidden.to(self.dtype)).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    @property
    def dtype(self) -> torch.dtype:
        weight = self.module.weight
        return weight.dtype if weight.is_floating_point() else torch.get_default_dtype()

    @property
    def vocabulary(self) -> int:
        return self.module.out_features

    def per_token(
        self, function: Callable[..., torch.Tensor], hidden: torch.Tensor, *others: torch.Tensor
    ) -> torch.Tensor:
        """``function(logits, *others)`` for every token, differentiable by ``hidden``.

        Args:
            function: takes logits (t, V) and the matching slices of ``others``, gives (t,) values, each of
                which depends on its own token's logits only.
            hidden: final hidden states (T, H).
            others: tensors whose first dimension is T; they get no gradient.

        Returns:
            (T,) values in fp32.
        """
        return _PerToken.apply(hidden, self, function, *others)

    def chunk(self) -> int:
        """Tokens whose logits are held at once; an accelerator needs more of them to be kept busy."""
        more = 1 if self.device.type == "cpu" else 4
        return max(1, more * CHUNK_ELEMENTS // self.vocabulary)

    @torch.no_grad()
    def _check(self, model: torch.nn.Module) -> None:
        """Compare with the model's own logits on a few tokens: unknown post-processing must not pass unseen."""
        ids = torch.arange(1, 5, device=self.module.weight.device)[None]
        training = model.training
        model.eval()
        try:
            hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state[0]
            theirs = model(input_ids=ids, use_cache=False).logits[0].float()
        except Exception as error:  # modelling code of third parties: anything can come out of it
            if is_out_of_memory(error):
                raise
            raise BaseModelError(
                f"{self.name} can't be used: a trial run of four tokens failed with {type(error).__name__} "
                f"({first_line(error)})."
            ) from error
        finally:
            model.train(training)
        if not torch.isfinite(hidden).all():
            raise BaseModelError(
                f"{self.name} gives NaN or infinities: its weights are damaged, or too large for this precision."
            )
        ours = self.logits(hidden)
        # a hundredth of the largest logit: more than what bf16 rounds, however small a model's logits are
        if ours.shape != theirs.shape or not (ours - theirs).abs().max() <= 1e-2 * theirs.abs().max():
            raise BaseModelError(
                f"{self.name} does something to its logits that asu-lora doesn't know, so its answers "
                "can't be compared token by token; please report the model's name."
            )


class _PerToken(torch.autograd.Function):
    """Values in the forward pass, and beside them each value's gradient by its token's hidden state."""

    @staticmethod
    def forward(ctx, hidden: torch.Tensor, head: FrozenHead, function, *others: torch.Tensor) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        values = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        slopes = torch.empty_like(hidden if wanted else hidden[:0])
        step = head.chunk()
        for at in range(0, hidden.shape[0], step):
            part = slice(at, at + step)
            states = hidden[part].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                value = function(head.logits(states), *(other[part] for other in others))
                if wanted:
                    (slopes[part],) = torch.autograd.grad(value.sum(), states)
            values[part] = value.detach()
        if wanted:
            ctx.save_for_backward(slopes)
        return values

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (slopes,) = ctx.saved_tensors
        return (gradient[:, None] * slopes).to(slopes.dtype), *([None] * (len(ctx.needs_input_grad) - 1))


def label_logprob(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(t,) log-probability of the labels (t,) under logits (t, V)."""
    return logits.gather(1, labels[:, None])[:, 0] - logits.logsumexp(1)
