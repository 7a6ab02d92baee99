"""KL(reference || student) token by token, both given as final hidden states."""

import torch

from asu_lora.objectives.answers import Answers


def token_kl(answers: Answers, reference: torch.Tensor, forbidden: torch.Tensor | None = None,
             ruled_out: torch.Tensor | None = None) -> torch.Tensor:
    """KL(reference || student) at every answer token.

    Args:
        answers: the student's side, T tokens.
        reference: (T, H) the reference's final hidden states, from the same head.
        forbidden: ids of tokens taken out of the reference's distribution everywhere but at a row's last
            token (what is left is renormalised).
        ruled_out: (T, k) ids taken out at each token; negative ones stand for nothing.

    Returns:
        (T,) divergences in nats.
    """
    head, last = answers.head, answers.last()

    def divergence(logits: torch.Tensor, states: torch.Tensor, is_last: torch.Tensor,
                   *out: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = head.logits(states)
            if forbidden is not None:
                inside = (~is_last).nonzero()[:, 0]
                target[inside[:, None], forbidden[None, :]] = float("-inf")
            for ids in out:
                at, column = (ids >= 0).nonzero(as_tuple=True)
                target[at, ids[at, column].long()] = float("-inf")
            target = target.log_softmax(1)
            probability = target.exp()
            # 0 log 0 = 0 for the tokens that were taken out
            entropy = -(probability * target.masked_fill(probability == 0, 0.0)).sum(1)
        # sum p log p - sum p log q; log q = logits - logsumexp, so no (t, V) copy of log q is kept
        cross = logits.logsumexp(1) - (probability * logits).sum(1)
        return cross - entropy

    out = () if ruled_out is None else (ruled_out,)
    return head.per_token(divergence, answers.hidden, reference, last, *out)
