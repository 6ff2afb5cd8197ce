r"""The copula rule of regression: the distribution function of y at every x.

P_i(y | x) = (1 - a) P_{i-1}(y | x) + a H_ρ(P_{i-1}(y | x), v_i), v_i = P_{i-1}(y_i | x_i), with
a = α_i k / (1 - α_i + α_i k) and log k(x, x_i) = Σ_j log c_{ρ_j}(x_j, x_ij), the copula density
of standardised inputs. At each x it is a martingale when v ~ U(0, 1), wherever x_i is.

Source: Fong, Holmes & Walker (JRSS B 2023), section 4.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from inference._checks import check_fraction, check_integer
from probnet.neural_process.copula import (
    fitted,
    log_density,
    permutations,
    stepped,
    stepped_cdf,
    weight,
)
from probnet.neural_process.copula_rule import CopulaLaw
from probnet.neural_process.rules import PredictiveRule
from probnet.standardizer import Standardizer

_THRESHOLDS = 129  # of y, where the distribution function is kept for its mean
_REACH = 8.0


class ConditionalState(NamedTuple):
    """Standardised inputs and quantiles of the data, observed and imagined.

    Attributes:
        fit: what `ConditionalCopula.start` found.
        x: inputs of every observation, each `(1, 1, d)` or `(P, 1, d)`.
        v: their quantiles, each `(1, 1)` or `(P, 1)`.
        num_paths: P.
    """

    fit: CopulaFit
    x: list[Tensor]
    v: list[Tensor]
    num_paths: int


@dataclass(frozen=True, eq=False)
class CopulaFit:
    """Correlations, and the standardisation of inputs and outputs, that a context led to."""

    rho: Tensor
    rho_x: Tensor
    x_scale: Standardizer
    y_loc: float
    y_scale: float


class ConditionalCopula(PredictiveRule[ConditionalState]):
    """Copula rule of y given x; its function is E[y | x].

    The first law is normal, with the mean and the standard deviation of the data.

    Args:
        rho: ρ of the outputs, in (0, 1); `None`: fitted by prequential likelihood.
        rho_x: ρ_j of the inputs, one number for all or one each; `None`: fitted. Give both or
            none.
        num_permutations: random orders of the data that the likelihood is averaged over.
        x_range: interval of inputs that future data are imagined in.
        seed: of the orders.

    Raises:
        ValueError: if a number is out of its range, or one of the two is missing.
    """

    def __init__(
        self,
        rho: float | None = None,
        rho_x: float | Sequence[float] | None = None,
        *,
        num_permutations: int = 10,
        x_range: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        if (rho is None) != (rho_x is None):
            raise ValueError("`rho` and `rho_x` must be given both or not at all.")
        self.rho = None if rho is None else check_fraction("rho", rho, closed=False)
        each = [rho_x] if isinstance(rho_x, (int, float)) else list(rho_x or [])
        self.rho_x = [
            check_fraction(f"rho_x[{i}]", r, closed=False) for i, r in enumerate(each)
        ]
        self.num_permutations = check_integer("num_permutations", num_permutations, 1)
        self.x_range, self.seed = x_range, check_integer("seed", seed, 0)

    def start(self, xc: Tensor, yc: Tensor, num_paths: int) -> ConditionalState:
        """See `PredictiveRule.start`."""
        if yc.shape[-1] != 1 or len(yc) < 2 or not float(yc.std()):
            raise ValueError(
                f"`yc` must have one output and two rows that differ; got shape "
                f"{tuple(yc.shape)}."
            )
        fit = self._fit(xc, yc[:, 0])
        x, scores = fit.x_scale.transform(xc), (yc[:, 0] - fit.y_loc) / fit.y_scale
        u = torch.special.ndtr(scores)
        quantiles: list[Tensor] = []
        for i in range(len(u)):
            v = u[i]
            quantiles.append(v.reshape(1, 1))
            u = stepped_cdf(u, v, _step(i + 1, x, x[i], fit.rho_x), fit.rho)
        return ConditionalState(fit, list(x[:, None, None]), quantiles, num_paths)

    def predict(self, state: ConditionalState, x: Tensor) -> Distribution:
        """See `PredictiveRule.predict`."""
        fit = state.fit
        points = fit.x_scale.transform(x)

        def law(y: Tensor) -> tuple[Tensor, Tensor]:
            z = (y - fit.y_loc) / fit.y_scale
            u = torch.special.ndtr(z)
            log_p = torch.distributions.Normal(0.0, fit.y_scale).log_prob(y - fit.y_loc)
            for i, (xi, v) in enumerate(zip(state.x, state.v, strict=True), 1):
                alpha = _step(i, points, xi, fit.rho_x)[..., None]
                u, log_p = stepped(u, log_p, v[..., None], alpha, fit.rho)
            shape = (state.num_paths, x.shape[1], y.shape[-1])
            return u.expand(shape), log_p.expand(shape)

        return CopulaLaw(law, (state.num_paths, x.shape[1]), fit.y_loc, fit.y_scale)

    def evaluate(self, state: ConditionalState, x: Tensor) -> Tensor:
        """E[y | x] on every path, by quadrature of the distribution function."""
        fit = state.fit
        points = fit.x_scale.transform(x)[None]
        z = torch.linspace(-_REACH, _REACH, _THRESHOLDS, dtype=x.dtype, device=x.device)
        u = torch.special.ndtr(z).expand(1, len(x), -1)
        for i, (xi, v) in enumerate(zip(state.x, state.v, strict=True), 1):
            alpha = _step(i, points, xi, fit.rho_x)[..., None]
            u = stepped_cdf(u, v[..., None], alpha, fit.rho)
        mean = _REACH - torch.trapezoid(u, z)
        return (fit.y_loc + fit.y_scale * mean).expand(state.num_paths, -1)[..., None]

    def update(self, state: ConditionalState, x: Tensor, y: Tensor) -> ConditionalState:
        """See `PredictiveRule.update`."""
        law: CopulaLaw = self.predict(state, x)  # pyright: ignore[reportAssignmentType] - made above
        return self._appended(state, x, law.cdf(y)[..., 0])

    def advance(self, state: ConditionalState, x: Tensor) -> tuple[ConditionalState, None]:
        """Imagine v ~ U(0, 1) at x; the value of y is not needed."""
        v = torch.rand((state.num_paths, 1), dtype=torch.float64)
        return self._appended(state, x, v), None

    @staticmethod
    def _appended(state: ConditionalState, x: Tensor, v: Tensor) -> ConditionalState:
        state.x.append(state.fit.x_scale.transform(x))
        state.v.append(v)
        return state

    def _fit(self, xc: Tensor, y: Tensor) -> CopulaFit:
        x_scale = Standardizer.fit(xc)
        loc, scale = float(y.mean()), float(y.std())
        dim = xc.shape[1]
        if self.rho is not None:
            rho_x = self.rho_x * dim if len(self.rho_x) == 1 else self.rho_x
            if len(rho_x) != dim:
                raise ValueError(
                    f"`rho_x` must hold one number per input, {dim}; got {len(rho_x)}."
                )
            rho, others = xc.new_tensor(self.rho), xc.new_tensor(rho_x)
        else:
            orders = permutations(len(y), self.num_permutations, self.seed)
            x, scores = x_scale.transform(xc)[orders], ((y - loc) / scale)[orders]
            both = fitted(lambda r: _prequential(x, scores, r), 1 + dim)
            rho, others = both[0], both[1:]
        return CopulaFit(rho, others, x_scale, loc, scale)


def _step(i: int, x: Tensor, xi: Tensor, rho_x: Tensor) -> Tensor:
    """α_i(x, x_i), of the broadcast shape of both without their last axis."""
    log_k = log_density(x, xi, rho_x).sum(-1)
    alpha = weight(i)
    odds = torch.log(torch.as_tensor(alpha)) - torch.log1p(torch.as_tensor(-alpha)) + log_k
    return odds.sigmoid()


def _prequential(x: Tensor, scores: Tensor, rho: Tensor) -> Tensor:
    """Mean over the rows of Σ_i log p_{i-1}(y_i | x_i), for standardised data `(R, n, *)`."""
    u = torch.special.ndtr(scores)
    log_p = -0.5 * scores**2
    total = log_p.new_zeros(len(scores))
    for i in range(scores.shape[1]):
        total = total + log_p[:, 0]
        v, xi = u[:, :1], x[:, :1]
        u, log_p, x = u[:, 1:], log_p[:, 1:], x[:, 1:]
        u, log_p = stepped(u, log_p, v, _step(i + 1, x, xi, rho[1:]), rho[0])
    return total.mean()
