"""Rounding to NF4 that keeps what a layer does, rather than what each of its weights is.

T (out, in) is the weight that is wanted and H = mean x x^T the second moment of the layer's inputs. Sought are
choices Q on the grid with a small mean ||(Q - T) x||^2, that is sum over rows of (q - t) H (q - t)^T. Rounding
to nearest takes H for the identity, and then an update below half a step is gone. But a layer's inputs lie in
few directions, so a few weights a row that move by a whole step can do what the update does to them:

- *descent* from the base's own choices: every row takes the step to a neighbouring level that gains it most,
  until none gains;
- *error feedback* (GPTQ, arXiv 2210.17323, which is Babai's nearest plane): one input after the other is
  rounded, and what that costs is handed to the inputs still open; then descent from there.

Each row keeps the better of the two. Neither ever does worse than leaving the row as the base has it.
"""

import torch

from asu_lora.merging.nf4.grid import Grid

BLOCK = 128  # inputs between two updates of all that are still open
ROW_ELEMENTS = 1 << 23  # weights worked on at once; some eight fp32 copies of them are in memory


def choose(grid: Grid, target: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """Choices (out, in) on the grid whose layer does what ``target`` (out, in) does.

    Args:
        grid: the base's own choices and scales.
        moment: H (in, in), positive definite (see :func:`damped`).
    """
    step = max(1, ROW_ELEMENTS // target.shape[1])
    chosen = []
    for first in range(0, target.shape[0], step):
        rows, wanted = grid.rows(first, first + step), target[first : first + step]
        one = descend(rows, rows.choices, wanted, moment)
        other = descend(rows, feed_errors(rows, wanted, moment), wanted, moment)
        better = cost(rows.values(other), wanted, moment) < cost(rows.values(one), wanted, moment)
        chosen.append(torch.where(better[:, None], other, one))
    return torch.cat(chosen)


def damped(moment: torch.Tensor, damping: float) -> torch.Tensor:
    """H with ``damping`` times its mean diagonal added to the diagonal, which keeps changes small towards
    inputs that were never seen; the identity for a layer that was fed nothing."""
    mean, ones = moment.diagonal().mean(), torch.eye(moment.shape[0])
    return moment + damping * mean * ones if mean > 0 else ones


def cost(values: torch.Tensor, target: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """(q - t) H (q - t)^T of every row: (out,)."""
    off = values - target
    return ((off @ moment) * off).sum(dim=1)


def descend(grid: Grid, choices: torch.Tensor, target: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """Better choices (out, in): each row takes its best single step, again and again, until none gains."""
    choices, rows = choices.clone(), torch.arange(len(choices))
    values, diagonal = grid.values(choices), moment.diagonal()
    slope = (values - target) @ moment
    enough = -1e-6 * cost(values, target, moment)  # smaller gains are rounding errors of the sums
    down, up = _steps(grid.levels, choices) * grid.scales
    for _ in range(4 * choices.shape[1]):
        move = torch.where(slope > 0, down, up)  # a step against the slope only costs
        gain, which = (move * (2 * slope + move * diagonal)).min(dim=1)
        gains = gain < enough
        if not gains.any():
            break
        if not gains.all():  # rows that are done are no longer looked at
            slope, down, up, move, enough, which, rows = (
                part[gains] for part in (slope, down, up, move, enough, which, rows)
            )
        here = torch.arange(len(rows))
        step = move[here, which]
        choices[rows, which] += torch.where(step > 0, 1, -1)
        slope = slope.addcmul_(step[:, None], moment[which])
        down[here, which], up[here, which] = _steps(grid.levels, choices[rows, which]) * grid.scales[rows, which]
    return choices


def _steps(levels: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
    """What the level below and the level above are from here: (2, ...); 0 where there is none."""
    here = levels[choices]
    return torch.stack((levels[(choices - 1).clamp_min(0)] - here, levels[(choices + 1).clamp_max(15)] - here))


def feed_errors(grid: Grid, target: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """Choices (out, in) by error feedback, the inputs with the largest second moment first."""
    order = moment.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment[order][:, order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    tiny = torch.finfo(torch.float32).tiny  # a block of zeros has the scale 0
    left, scales = target[:, order].clone(), grid.scales[:, order].clamp_min(tiny)
    edges = (grid.levels[1:] + grid.levels[:-1]) / 2
    chosen = torch.empty(target.shape, dtype=torch.long)
    for first in range(0, target.shape[1], BLOCK):
        last = min(first + BLOCK, target.shape[1])
        errors = torch.empty(target.shape[0], last - first)
        for i in range(first, last):
            chosen[:, i] = torch.bucketize(left[:, i] / scales[:, i], edges)
            error = (left[:, i] - grid.levels[chosen[:, i]] * scales[:, i]) / upper[i, i]
            left[:, i:last] -= error[:, None] * upper[i, i:last]
            errors[:, i - first] = error
        left[:, last:] -= errors @ upper[first:last, last:]
    return torch.empty_like(chosen).index_copy_(1, order, chosen)
