"""The losses of the field written a second time, from each paper's formula, on full logits and labels of -100.

A batch gives ``logits(states)``, (B, L, V) logits of its (B, L, H) states; ``hidden``, ``base`` and ``labels``, (B, L).
"""

import torch
from torch.nn.functional import one_hot

from asu_lora.losses import forget_loss, retain_loss


def tokens(batch):
    """Row by row the places of its answer tokens, and those tokens."""
    for row, labels in enumerate(batch.labels):
        places = (labels != -100).nonzero()[:, 0]
        yield row, places, labels[places]


def probabilities(batch, states):
    """Row by row (t, V) probabilities, and the answer tokens (t,)."""
    for row, places, labels in tokens(batch):
        yield batch.logits(states)[row, places].double().softmax(-1), labels


def picked(p, labels):
    return torch.stack([p[at, label] for at, label in enumerate(labels.tolist())])


def simnpo(answer, beta, gamma):
    """Fan et al. (4): -2/beta E log sigmoid(-beta/|y| log p(y|x) - gamma)."""
    values = []
    for p, labels in probabilities(answer, answer.hidden):
        inside = -beta / len(labels) * picked(p, labels).log().sum() - gamma
        values.append(-2 / beta * torch.log(1 / (1 + torch.exp(-inside))))
    return torch.stack(values).mean()


def weighted(answer, weight):
    """The mean over all tokens of w(p) log p, where w is not differentiated."""
    p = torch.cat([picked(p, labels) for p, labels in probabilities(answer, answer.hidden)])
    return (weight(p.detach()) * p.log()).sum() / len(p)


def undial(answer, beta):
    """Dong et al.: the cross-entropy to softmax(z_base - beta [v = y])."""
    values = []
    for row, places, labels in tokens(answer):
        z = answer.logits(answer.base).detach()[row, places].double()
        target = (z - beta * one_hot(labels, z.shape[-1])).softmax(-1)
        values.append(-(target * answer.logits(answer.hidden)[row, places].double().log_softmax(-1)).sum(-1))
    return torch.cat(values).mean()


def ceu(answer, skip):
    """Yang: the cross-entropy to the student's own probabilities, the answer's set to 0 and the rest renormalised."""
    values = []
    for p, labels in probabilities(answer, answer.hidden):
        target = p.detach() * (1 - one_hot(labels, p.shape[-1]))
        values.append(-(target / target.sum(-1, keepdim=True) * p.log()).sum(-1)[skip:])
    values = torch.cat(values)
    return values.sum() / max(len(values), 1)


def jensun(refusal):
    """Singh et al.: the Jensen-Shannon divergence to the one-hot tokens of a refusal."""
    values = []
    for p, labels in probabilities(refusal, refusal.hidden):
        target = one_hot(labels, p.shape[-1]).to(p.dtype)
        m = (p + target) / 2
        from_student = (p * (p / m).log()).sum(-1)
        from_target = -picked(m, labels).log()
        values.append(((from_student + from_target) / 2).mean())
    return torch.stack(values).mean()


def js(answer):
    """Singh et al.: the same between base and student."""
    values = []
    for row, places, _ in tokens(answer):
        p = answer.logits(answer.base).detach()[row, places].double().softmax(-1)
        q = answer.logits(answer.hidden)[row, places].double().softmax(-1)
        m = (p + q) / 2
        values.append(((p * (p / m).log() + q * (q / m).log()).sum(-1) / 2).mean())
    return torch.stack(values).mean()


def altpo(answer, alternate, beta):
    """Mekala et al.: DPO of an alternate answer against the answer."""
    ratios = []
    for batch in (alternate, answer):
        pairs = zip(probabilities(batch, batch.hidden), probabilities(batch, batch.base), strict=True)
        ratios.append([(picked(p, y) / picked(q.detach(), y)).log().sum() for (p, y), (q, _) in pairs])
    inside = beta * (torch.stack(ratios[0]) - torch.stack(ratios[1]))
    return (2 / beta * torch.log(1 + torch.exp(-inside))).mean()


def pdu(answer):
    """Entesari et al.: the squared distance of the highest logit from the mean of all, over all tokens."""
    z = torch.cat([answer.logits(answer.hidden)[row, places].double() for row, places, _ in tokens(answer)])
    # amax shares the gradient among logits that are equally high, as bf16 ones often are
    return ((z.amax(-1) - z.sum(-1) / z.shape[-1]) ** 2).mean()


def rmu(answer, steering, seed=0):
    """Li et al.: states (here the final ones) towards a random direction, a row's mean over tokens and numbers."""
    u = torch.rand(answer.hidden.shape[-1], generator=torch.Generator().manual_seed(seed))
    return states_apart(answer, steering * u / u.square().sum().sqrt())


def states_apart(answer, target):
    """Mean over rows of the mean squared distance of the states to the target, (H,) or (B, L, H)."""
    values = []
    for row, places, _ in tokens(answer):
        other = target if target.dim() == 1 else target[row, places]
        values.append((answer.hidden[row, places].double() - other.double()).square().mean())
    return torch.stack(values).mean()


# name: the loss, and its second implementation from the answer and the refusal batch
FIELD = {
    "simnpo": (lambda: forget_loss("simnpo"), lambda a, i: simnpo(a, 4.5, 0.0)),
    "simnpo, gamma": (lambda: forget_loss("simnpo", beta=2.0, gamma=0.5), lambda a, i: simnpo(a, 2.0, 0.5)),
    "wga": (lambda: forget_loss("wga"), lambda a, i: weighted(a, lambda p: p)),
    "wga, beta": (lambda: forget_loss("wga", beta=0.4), lambda a, i: weighted(a, lambda p: p**0.4)),
    "satimp": (lambda: forget_loss("satimp"), lambda a, i: weighted(a, lambda p: p**5 * (1 - p))),
    "satimp, betas": (
        lambda: forget_loss("satimp", beta1=0.5, beta2=2.0),
        lambda a, i: weighted(a, lambda p: p**0.5 * (1 - p) ** 2),
    ),
    "undial": (lambda: forget_loss("undial"), lambda a, i: undial(a, 10)),
    "undial, beta": (lambda: forget_loss("undial", beta=3.0), lambda a, i: undial(a, 3)),
    "ceu": (lambda: forget_loss("ceu"), lambda a, i: ceu(a, 1)),
    "ceu, first token too": (lambda: forget_loss("ceu", skip=0), lambda a, i: ceu(a, 0)),
    "jensun": (lambda: forget_loss("jensun"), lambda a, i: jensun(i)),
    "altpo": (lambda: forget_loss("altpo", beta=0.3), lambda a, i: altpo(a, i, 0.3)),
    "pdu": (lambda: forget_loss("pdu"), lambda a, i: pdu(a)),
    "rmu": (lambda: forget_loss("rmu"), lambda a, i: rmu(a, 6.5)),
    "rmu, steering": (lambda: forget_loss("rmu", steering=20.0, seed=3), lambda a, i: rmu(a, 20, 3)),
    "rmu, retain": (lambda: retain_loss("rmu"), lambda a, i: states_apart(a, a.base)),
    "js": (lambda: retain_loss("js"), lambda a, i: js(a)),
}
