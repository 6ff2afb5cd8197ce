"""The univariate copula rule on many imagined continuations of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from probnet.neural_process.copula import Copula, stepped, stepped_cdf, weight
from probnet.neural_process.rules import PredictiveRule

_REACH = 8.0  # sds of the first law, within which quantiles are looked for
_BISECTIONS = 50
_NODES = 257  # of the quadrature of moments


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
        copula = state.observed
        shape = (state.num_paths, x.shape[1])
        return CopulaLaw(lambda y: _path_law(state, y), shape, copula.loc, copula.scale)

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
        return path_cdf(state, x[None, :, 0])[..., None]

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
    """P_N(y) on every path, at points `(P, q)`, or `(1, q)` for the same on all."""
    copula = state.observed
    u, rho = copula.cdf(y), torch.tensor(copula.rho, dtype=torch.float64)
    for i, v in enumerate(state.imagined, len(copula.quantiles) + 1):
        u = stepped_cdf(u, v[:, None], weight(i), rho)
    return u.expand(state.num_paths, -1)


def _path_law(state: CopulaState, y: Tensor) -> tuple[Tensor, Tensor]:
    """P_N and log p_N at points `(P or 1, q, g)`."""
    copula, rho = state.observed, torch.tensor(state.observed.rho, dtype=torch.float64)
    u, log_p = copula.cdf(y), copula.log_pdf(y)
    for i, v in enumerate(state.imagined, len(copula.quantiles) + 1):
        u, log_p = stepped(u, log_p, v[:, None, None], weight(i), rho)
    shape = (state.num_paths, *y.shape[1:])
    return u.expand(shape), log_p.expand(shape)


class CopulaLaw(Distribution):
    """A law known by its distribution function at q inputs of every path.

    Args:
        law: gives P and log p, `(P, q, g)`, at points `(P or 1, q or 1, g)`.
        batch_shape: `(P, q)`.
        loc: of the first law.
        scale: of the first law; quantiles are looked for within 8 of them.
    """

    def __init__(
        self,
        law: Callable[[Tensor], tuple[Tensor, Tensor]],
        batch_shape: tuple[int, int],
        loc: float,
        scale: float,
    ) -> None:
        self._law, self._loc, self._half = law, loc, _REACH * scale
        super().__init__(torch.Size(batch_shape), torch.Size((1,)), validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None."""
        return {}

    @property
    def mean(self) -> Tensor:
        """E[y] = b - ∫ P(y) dy up to b, beyond which there is nothing."""
        high = self._loc + self._half
        y = torch.linspace(self._loc - self._half, high, _NODES, dtype=torch.float64)
        cdf = self._law(y.expand(1, self.batch_shape[1], -1))[0]
        return (high - torch.trapezoid(cdf, y))[..., None]

    def cdf(self, value: Tensor) -> Tensor:
        """P(y), for values that broadcast to `(P, q, 1)`."""
        return self._law(value.broadcast_to(*self.batch_shape, 1))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(y), for values that broadcast to `(P, q, 1)`: shape `(P, q)`."""
        return self._law(value.broadcast_to(*self.batch_shape, 1))[1][..., 0]

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws by inversion, `(*sample_shape, P, q, 1)`."""
        p = torch.rand((*self.batch_shape, math.prod(sample_shape)), dtype=torch.float64)
        low = torch.full_like(p, self._loc - self._half)
        high = torch.full_like(p, self._loc + self._half)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = self._law(middle)[0] < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        draws = ((low + high) / 2).movedim(-1, 0)
        return draws.reshape(*sample_shape, *self.batch_shape, 1)
