"""One axis of a tensor grid: differentiation matrices of the prior and boundary elimination."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probnet.gp_pde.prior import AxisPrior
from probnet.linalg import EquilibratedCholesky


@dataclass(frozen=True, eq=False)
class GridAxis:
    """Nodes of one axis with the matrices that act along it.

    Values at the nodes are u = E v + R g: v at the kept nodes, g the data of the faces.

    Attributes:
        nodes: shape `(M,)`, ascending.
        prior: of this axis.
        factor: of the prior covariance of the nodes.
        derivatives: I, D⁽¹⁾, D⁽²⁾ with D⁽ᵖ⁾ = k⁽ᵖ⁾(X, X) K⁻¹, each `(M, M)`.
        kept: numbers of the nodes where the equation holds, shape `(K,)`.
        extension: E, shape `(M, K)`.
        lift: R, shape `(M, B)` for B conditions.
        log_abs_det: log |det| of the map from eliminated nodes to data.
    """

    nodes: Tensor
    prior: AxisPrior
    factor: EquilibratedCholesky
    derivatives: tuple[Tensor, Tensor, Tensor]
    kept: Tensor
    extension: Tensor
    lift: Tensor
    log_abs_det: float

    def __len__(self) -> int:
        return len(self.nodes)

    def interpolation(self, x: Tensor, order: int = 0) -> Tensor:
        """k⁽ᵖ⁾(x, X), shape `(n, M)`: times K⁻¹u it is the p-th derivative at x."""
        return self.prior.derivatives(x[:, None] - self.nodes, order)[order]


def grid_nodes(low: float, high: float, count: int, *, periodic: bool) -> Tensor:
    """Uniform nodes; those of a periodic axis leave out the upper end."""
    if periodic:
        return low + (high - low) / count * torch.arange(count, dtype=torch.float64)
    return torch.linspace(low, high, count, dtype=torch.float64)


def build_axis(
    nodes: Tensor,
    prior: AxisPrior,
    nugget: float,
    lower: Sequence[int] = (),
    upper: Sequence[int] = (),
) -> GridAxis:
    """Matrices of one axis.

    Args:
        nodes: ascending.
        prior: of the axis.
        nugget: ε, relative.
        lower: orders of the derivatives that are given at the lower face.
        upper: the same at the upper face.

    Raises:
        ValueError: if the prior covariance cannot be factorised.
    """
    n = len(nodes)
    gram, *slopes = _gram_tables(nodes, prior)
    factor = EquilibratedCholesky(gram, nugget)
    first, second = (factor.solve(t.mT.contiguous()).mT.contiguous() for t in slopes)
    derivatives = (torch.eye(n, dtype=torch.float64), first, second)
    eliminated = [*range(len(lower)), *range(n - len(upper), n)]
    kept = torch.tensor([i for i in range(n) if i not in set(eliminated)])
    extension = torch.zeros(n, len(kept), dtype=torch.float64)
    extension[kept, torch.arange(len(kept))] = 1.0
    lift = torch.zeros(n, len(eliminated), dtype=torch.float64)
    log_abs_det = 0.0
    if eliminated:
        rows = torch.stack(
            [derivatives[order][0] for order in lower]
            + [derivatives[order][-1] for order in upper]
        )
        inverse = torch.linalg.inv(rows[:, eliminated])
        extension[eliminated] = -inverse @ rows[:, kept]
        lift[eliminated] = inverse
        log_abs_det = -float(torch.linalg.slogdet(inverse).logabsdet)
    return GridAxis(nodes, prior, factor, derivatives, kept, extension, lift, log_abs_det)


def _gram_tables(nodes: Tensor, prior: AxisPrior) -> Tensor:
    """k, k' and k'' between all nodes, `(3, M, M)`; Toeplitz where the nodes are uniform."""
    n, steps = len(nodes), nodes.diff()
    if float(steps.max() - steps.min()) > 1e-9 * float(steps.max()):
        return prior.derivatives(nodes[:, None] - nodes, 2)
    numbers = torch.arange(n)
    lags = (nodes[-1] - nodes[0]) / (n - 1) * torch.arange(1 - n, n, dtype=torch.float64)
    return prior.derivatives(lags, 2)[:, numbers[:, None] - numbers + n - 1]
