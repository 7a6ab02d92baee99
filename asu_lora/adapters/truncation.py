"""A sum of adapters cut to a smaller rank: the nearest of that rank, or one as strong as the exact sum.

The nearest keeps the R largest singular values of a module's sum (Eckart-Young: no other of rank R is nearer). They are
found from thin QR factors and one small SVD, so that a full (out, in) matrix is never made. With U the R directions
that it writes to, the nearest is U U^T W: shorter than W, and so what was forgotten comes back a little.

:func:`as_strong` gives that back without leaving U. The adapters' weights are raised until the cut sum U U^T sum_j f_j
w_j D_j goes as far along every adapter's update D_i as the exact one does: one linear system of as many unknowns as
adapters. docs/results/adding_up.md has what it brings.
"""

from dataclasses import dataclass

import torch

HIGHEST = 2.0  # a weight that has to be raised further belongs to an adapter that hardly fits into the rank


@dataclass
class Truncation:
    """One module's sum B A, weights folded into B, and what is kept of it: thin QR factors, fp64.

    Attributes:
        q_b: of B, (out, n); n and m are at most total, the sum of the adapters' ranks.
        r_b: its triangle, (n, total).
        q_a: of A^T, (in, m).
        r_a: its triangle, (m, total).
        left: U by the columns of ``q_b``, (n, kept).
    """

    q_b: torch.Tensor
    r_b: torch.Tensor
    q_a: torch.Tensor
    r_a: torch.Tensor
    left: torch.Tensor

    @classmethod
    def of(cls, a: torch.Tensor, b: torch.Tensor, rank: int | None) -> "Truncation":
        """Cut B A, of a (total, in) and b (out, total), to ``rank``; None keeps all."""
        q_b, r_b = torch.linalg.qr(b.double())
        q_a, r_a = torch.linalg.qr(a.double().T)
        if rank is None or rank >= min(len(r_b), len(r_a)):
            return cls(q_b, r_b, q_a, r_a, torch.eye(len(r_b), dtype=torch.double))
        left = torch.linalg.svd(r_b @ r_a.T, full_matrices=False).U[:, :rank]
        return cls(q_b, r_b, q_a, r_a, left)

    @property
    def whole(self) -> bool:
        """Whether nothing is cut off: no matrix has more singular values than min(in, out)."""
        return self.left.shape[1] >= min(len(self.r_b), len(self.r_a))

    def along(self, of: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Products of the adapters' updates with one another, each once cut and whole, both (adapters, adapters).

        Args:
            of: each adapter's own ranks, 0 or 1, (total, adapters).
        """
        reads, written = self.r_a.T @ self.r_a, self.left.T @ self.r_b  # A A^T, U^T B
        whole = of.T @ ((self.r_b.T @ self.r_b) * reads) @ of
        return (whole if self.whole else of.T @ ((written.T @ written) * reads) @ of), whole

    def factors(self, raised: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The cut sum as A (kept, in) and B (out, kept), fp32.

        Args:
            raised: what each of the ranks is multiplied by, (total,).
        """
        u, sigma, vt = torch.linalg.svd((self.left.T @ self.r_b * raised) @ self.r_a.T, full_matrices=False)
        root = sigma.sqrt()
        a = (root[:, None] * (vt @ self.q_a.T)).float().contiguous()
        b = ((self.q_b @ (self.left @ u)) * root).float().contiguous()
        return a, b

    def sizes(self, raised: torch.Tensor) -> tuple[float, float]:
        """||B A|| and the relative distance of the cut sum from it (Frobenius)."""
        exact = self.r_b @ self.r_a.T
        norm = torch.linalg.norm(exact).item()
        made = (self.r_b * raised) @ self.r_a.T
        if self.whole:
            lost = 0.0 if (raised == 1).all() else torch.linalg.norm(made - exact).item()
        else:
            lost = torch.linalg.norm(self.left @ (self.left.T @ made) - exact).item()
        return norm, lost / norm if norm else 0.0


def as_strong(cut: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """What to multiply each adapter's weight by, (adapters,), so that the cut sum goes as far along all as the whole.

    Where the rank can't tell adapters apart, and one of them would have to be turned round or raised beyond HIGHEST,
    all are multiplied by the same: the cut sum then goes as far along the exact one as that itself.

    Args:
        cut: the products of :meth:`Truncation.along`, summed over modules, (adapters, adapters).
        whole: those of the exact sum, (adapters, adapters).
    """
    if torch.equal(cut, whole):  # nothing is cut off
        return torch.ones(len(cut), dtype=torch.double)
    raised = torch.linalg.lstsq(cut, whole.sum(dim=1, keepdim=True)).solution[:, 0]
    if raised.min() > 0 and raised.max() <= HIGHEST:
        return raised
    return torch.full_like(raised, (whole.sum() / cut.sum()).item())
