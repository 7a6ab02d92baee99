"""KL(reference || student) token by token, both given as final hidden states."""

import torch

from asu_lora.losses.answers import Answers

# the logit of a token that was taken out: its probability is 0, and 0 times it is 0 (0 times -inf would be NaN)
NEVER = torch.finfo(torch.float32).min / 2


def token_kl(
    answers: Answers,
    reference: torch.Tensor,
    forbidden: torch.Tensor | None = None,
    ruled_out: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """KL(reference || student) at every answer token.

    Args:
        answers: the student's side, T tokens.
        reference: (T, H) the reference's final hidden states, from the same head.
        forbidden: ids of tokens taken out of the reference's distribution everywhere but at a row's last
            token (what is left is renormalised).
        ruled_out: (T, k) ids taken out at each token; negative ones stand for nothing.
        temperature: both distributions' (Hinton et al., arXiv 1503.02531: times its square, so that the gradient keeps
            its size). Above 1 the divergence also sees a change of logits where the reference is sure of a token.

    Returns:
        (T,) divergences in nats.
    """
    head, last = answers.head, answers.last()

    def divergence(
        logits: torch.Tensor, states: torch.Tensor, is_last: torch.Tensor, *out: torch.Tensor
    ) -> torch.Tensor:
        with torch.no_grad():
            target = head.logits(states)
            # by shapes alone, as looking for places by their values would stall a GPU
            if forbidden is not None:
                target[:, forbidden] = target[:, forbidden].masked_fill(~is_last[:, None], NEVER)
            for ids in out:
                never = torch.full_like(ids, NEVER, dtype=torch.float32).masked_fill_(ids < 0, torch.inf)
                target.scatter_reduce_(1, ids.clamp(min=0).long(), never, "amin")
            target = target.div_(temperature).log_softmax(1)
        return _Divergence.apply(logits, target, temperature)

    out = () if ruled_out is None else (ruled_out,)
    return head.per_token(divergence, answers.hidden, reference, last, *out)


class _Divergence(torch.autograd.Function):
    """(t,) T^2 sum p (log p - log q) of log p (t, V), which is overwritten, and of the student's logits (t, V) over T.

    The gradient by the logits, T (q - p), is ready in the forward pass: autograd would keep a dozen (t, V) buffers on
    the way to it, here four live at once.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
        student = (logits / temperature if temperature != 1.0 else logits).log_softmax(1)
        probability = target.exp()
        value = target.sub_(student).mul_(probability).sum(1)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(student.exp_().sub_(probability).mul_(temperature))
        return value.mul_(temperature**2)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * gradient[:, None], None, None
