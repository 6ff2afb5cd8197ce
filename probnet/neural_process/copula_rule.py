"""The univariate copula rule on many imagined continuations of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from probnet.neural_process.copula import Copula, stepped, stepped_cdf, weight
from probnet.neural_process.rules import PredictiveRule

_REACH = 8.0  # sds of the first law, within which quantiles are looked for
_BISECTIONS = 50
_NODES = 401  # of the quadrature of moments


class CopulaState(NamedTuple):
    """Quantiles of the data, observed and imagined.

    Attributes:
        observed: the rule updated by the observations, the same for all paths.
        imagined: v_i of every path, one tensor `(P,)` per step.
        num_paths: P.
    """

    observed: Copula
    imagined: list[Tensor]
    num_paths: int


class CopulaRule(PredictiveRule[CopulaState]):
    """`Copula` as a predictive rule; its function is the distribution function P(y).

    Args:
        copula: without data. If its ρ is not set, `start` fits it to the data and standardises
            the first law by them.
    """

    uses_inputs = False

    def __init__(self, copula: Copula) -> None:
        self.copula = copula

    def start(self, xc: Tensor, yc: Tensor, num_paths: int) -> CopulaState:
        """See `PredictiveRule.start`."""
        del xc
        if yc.shape[-1] != 1:
            raise ValueError(f"`yc` must have one output; got shape {tuple(yc.shape)}.")
        y = yc[:, 0]
        observed = self.copula.fit(y) if self.copula.rho is None else self.copula.update(y)
        return CopulaState(observed, [], num_paths)

    def predict(self, state: CopulaState, x: Tensor) -> Distribution:
        """See `PredictiveRule.predict`; the law is the same at all inputs."""
        return CopulaLaw(state, x.shape[1])

    def update(self, state: CopulaState, x: Tensor, y: Tensor) -> CopulaState:
        """See `PredictiveRule.update`."""
        del x
        return self._imagined(state, path_cdf(state, y[:, :, 0])[:, 0])

    def advance(self, state: CopulaState, x: Tensor) -> tuple[CopulaState, None]:
        """Imagine v ~ U(0, 1) on every path; the value of y is not needed."""
        del x
        v = torch.rand(state.num_paths, dtype=torch.float64)
        return self._imagined(state, v), None

    def evaluate(self, state: CopulaState, x: Tensor) -> Tensor:
        """P_N(y) on every path at thresholds y, `(q, 1)`: shape `(P, q, 1)`."""
        return path_cdf(state, x[:, 0].expand(state.num_paths, -1))[..., None]

    def grid(self, xc: Tensor, yc: Tensor, num_points: int) -> Tensor:
        """Thresholds from half a range of the data below them to half a range above."""
        del xc
        low, high = float(yc.min()), float(yc.max())
        margin = (high - low) / 2 or 1.0
        return torch.linspace(low - margin, high + margin, num_points, dtype=yc.dtype)[:, None]

    @staticmethod
    def _imagined(state: CopulaState, v: Tensor) -> CopulaState:
        state.imagined.append(v)
        return state


def path_cdf(state: CopulaState, y: Tensor) -> Tensor:
    """P_N(y) on every path, at points `(P, q)` of its own."""
    copula = state.observed
    n, rho = len(copula.quantiles), torch.tensor(copula.rho, dtype=torch.float64)
    u = copula.cdf(y[:1] if _shared(y) else y)
    for i, v in enumerate(state.imagined, n + 1):
        u = stepped_cdf(u, v[:, None], weight(i), rho)
    return u.expand_as(y)


class CopulaLaw(Distribution):
    """The predictive law of every path, the same at q inputs: batch `(P, q)`, event (1,)."""

    def __init__(self, state: CopulaState, num_points: int) -> None:
        self._state = state
        batch = torch.Size((state.num_paths, num_points))
        super().__init__(batch, torch.Size((1,)), validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None."""
        return {}

    @property
    def mean(self) -> Tensor:
        """E[y], by quadrature of 1 - P on the right and P on the left of the first mean."""
        copula, paths = self._state.observed, self._state.num_paths
        half = _REACH * copula.scale
        y = torch.linspace(copula.loc - half, copula.loc + half, _NODES, dtype=torch.float64)
        u = path_cdf(self._state, y.expand(paths, -1))
        return (
            (copula.loc + half - torch.trapezoid(u, y))
            .reshape(paths, 1, 1)
            .expand(*self.batch_shape, 1)
        )

    def cdf(self, value: Tensor) -> Tensor:
        """P(y), for values `(P, q, 1)`."""
        return path_cdf(self._state, value[..., 0])[..., None]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(y), for values that broadcast to `(P, q, 1)`: shape `(P, q)`."""
        copula = self._state.observed
        y = value.broadcast_to(*self.batch_shape, 1)[..., 0]
        rho = torch.tensor(copula.rho, dtype=torch.float64)
        u, log_p = copula.cdf(y), copula.log_pdf(y)
        for i, v in enumerate(self._state.imagined, len(copula.quantiles) + 1):
            u, log_p = stepped(u, log_p, v[:, None], weight(i), rho)
        return log_p

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws by inversion, `(*sample_shape, P, q, 1)`."""
        shape = (*sample_shape, *self.batch_shape)
        copula = self._state.observed
        draws = torch.rand(shape, dtype=torch.float64).movedim(-2, 0)
        p = draws.reshape(len(draws), -1)
        low = torch.full_like(p, copula.loc - _REACH * copula.scale)
        high = torch.full_like(p, copula.loc + _REACH * copula.scale)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = path_cdf(self._state, middle) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).reshape(draws.shape).movedim(0, -2)[..., None]


def _shared(y: Tensor) -> bool:
    """Whether all rows are one row, expanded."""
    return y.stride(0) == 0
