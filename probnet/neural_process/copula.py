r"""Predictive rules without a model: recursive updates of a distribution function by copulas.

P_i(y) = (1 - α_i) P_{i-1}(y) + α_i H_ρ(P_{i-1}(y), v_i), v_i = P_{i-1}(y_i), with the
conditional distribution function of the Gaussian copula
H_ρ(u, v) = Φ((Φ⁻¹(u) - ρ Φ⁻¹(v))/√(1-ρ²)) and α_i = (2 - 1/i)/(i + 1). Since
∫ H_ρ(u, v) dv = u, imagining v ~ U(0, 1) makes P_i(y) a martingale: no observation
need be drawn, no distribution function inverted.

Source: Fong, Holmes & Walker (JRSS B 2023), sections 4.2 and 4.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from inference._checks import check_finite, check_fraction, check_integer, check_positive
from inference.rng import Stream, generator
from probnet._checks import Values, as_tensor

if TYPE_CHECKING:
    from probnet.neural_process.rules import PredictiveRule

_CLIP = 1e-6  # of u and v, before Φ⁻¹
_ALPHA_CLIP = 1e-5
_RHO_START = 0.8
_MAX_ITERATIONS = 30


def weight(i: int) -> float:
    """α_i, for the i-th observation, i = 1, 2, ..."""
    return (2 - 1 / i) / (i + 1)


def conditional_cdf(a: Tensor, b: Tensor, rho: Tensor) -> Tensor:
    """H_ρ(Φ(a), Φ(b))."""
    return torch.special.ndtr((a - rho * b) / (1 - rho * rho).sqrt())


def log_density(a: Tensor, b: Tensor, rho: Tensor) -> Tensor:
    """Log c_ρ(Φ(a), Φ(b)), of the Gaussian copula."""
    r = rho * rho
    exponent = (2 * rho * a * b - r * (a * a + b * b)) / (2 * (1 - r))
    return exponent - 0.5 * torch.log1p(-r)


def normal_score(u: Tensor) -> Tensor:
    """Φ⁻¹(u), u clipped away from 0 and 1."""
    return torch.special.ndtri(u.clamp(_CLIP, 1 - _CLIP))


def stepped(
    u: Tensor, log_p: Tensor, v: Tensor, alpha: Tensor | float, rho: Tensor
) -> tuple[Tensor, Tensor]:
    """Distribution function and log density after one observation at quantile v."""
    a, b = normal_score(u), normal_score(v)
    alpha = torch.as_tensor(alpha, dtype=u.dtype).clamp(_ALPHA_CLIP, 1 - _ALPHA_CLIP)
    changed = alpha.log() + log_density(a, b, rho)
    moved = (1 - alpha) * u + alpha * conditional_cdf(a, b, rho)
    return moved, log_p + torch.logaddexp(torch.log1p(-alpha).expand_as(changed), changed)


def stepped_cdf(u: Tensor, v: Tensor, alpha: Tensor | float, rho: Tensor) -> Tensor:
    """As `stepped`, without the density."""
    return (1 - alpha) * u + alpha * conditional_cdf(normal_score(u), normal_score(v), rho)


def fitted(prequential: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """The ρ in (0, 1)^size of largest prequential log-likelihood, by L-BFGS on its logits."""
    start = math.log(_RHO_START / (1 - _RHO_START))
    logit = torch.full((size,), start, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logit], max_iter=_MAX_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -prequential(_within(logit))
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)  # pyright: ignore[reportArgumentType] - torch says float
    return _within(logit.detach())


@dataclass(frozen=True, eq=False)
class Copula:
    """Copula rule of exchangeable real numbers; its first law is N(loc, scale²).

    An object is the rule together with the data that it was updated by; `update` returns a new
    one. In `PredictiveResampler` there are no inputs, and the function that is resampled is
    the distribution function: the grid is one of thresholds y.

    Args:
        rho: ρ in (0, 1); smaller is smoother. `None`: `fit` chooses it.
        loc: of the first law, in units of y.
        scale: of the first law, its sd, in units of y.
        quantiles: v_i of the data so far, `(n,)`; set by `update`.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> rule = Copula(rho=0.6).update([0.3, -1.2, 0.8])
        >>> round(float(rule.cdf(0.0)), 4), round(float(rule.pdf(0.0)), 4)
        (0.509, 0.4379)
    """

    rho: float | None = None
    loc: float = 0.0
    scale: float = 1.0
    quantiles: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))

    def __post_init__(self) -> None:
        if self.rho is not None:
            check_fraction("rho", self.rho, closed=False)
        check_positive("scale", self.scale)

    def update(self, y: Values) -> Self:
        """The rule after further observations, in their order.

        Args:
            y: one number or `(n,)`; finite.

        Raises:
            ValueError: if `rho` is not set, or `y` is not finite.
        """
        values = check_finite("y", as_tensor("y", y)).reshape(-1)
        u, log_p = self._at(values)
        quantiles = list(self.quantiles)
        for i in range(len(values)):
            v = u[i]
            u, log_p = stepped(u, log_p, v, weight(len(quantiles) + 1), self._rho)
            quantiles.append(v)
        return replace(self, quantiles=torch.stack(quantiles) if quantiles else self.quantiles)

    def cdf(self, t: Values) -> Tensor:
        """P_n(t), of the shape of t."""
        return self._at(as_tensor("t", t))[0]

    def log_pdf(self, t: Values) -> Tensor:
        """Log p_n(t), of the shape of t."""
        return self._at(as_tensor("t", t))[1]

    def pdf(self, t: Values) -> Tensor:
        """p_n(t), of the shape of t."""
        return self.log_pdf(t).exp()

    def fit(self, y: Values, *, num_permutations: int = 10, seed: int = 0) -> Self:
        """Standardise by y, choose ρ by prequential likelihood, and update by y.

        ρ maximises Σ_i log p_{i-1}(y_i), averaged over random orders of the data.

        Args:
            y: `(n,)`, at least two numbers that differ; finite.
            num_permutations: number of random orders.
            seed: of the orders.

        Raises:
            ValueError: if there are too few data, all the same or not finite.
        """
        values = check_finite("y", as_tensor("y", y)).reshape(-1)
        if len(values) < 2 or not float(values.std()):
            raise ValueError("`y` must hold at least two numbers that differ.")
        loc, scale = float(values.mean()), float(values.std())
        scores = (values - loc) / scale
        orders = permutations(len(values), num_permutations, seed)
        rho = fitted(lambda r: _prequential(scores[orders], r), 1)
        return replace(type(self)(float(rho), loc, scale)).update(values)

    def as_rule(self) -> PredictiveRule[Any]:
        """The one-step predictive rule, for `PredictiveResampler`; it starts without data."""
        from probnet.neural_process.copula_rule import CopulaRule

        return CopulaRule(replace(self, quantiles=self.quantiles[:0]))

    @property
    def _rho(self) -> Tensor:
        if self.rho is None:
            raise ValueError("`rho` is not set. Give it, or call `fit(y)`, which chooses it.")
        return torch.tensor(self.rho, dtype=torch.float64)

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """P_n and log p_n at points of any shape."""
        z = (t - self.loc) / self.scale
        u = torch.special.ndtr(z)
        log_p = -0.5 * z * z - 0.5 * math.log(2 * math.pi) - math.log(self.scale)
        for i, v in enumerate(self.quantiles, 1):
            u, log_p = stepped(u, log_p, v, weight(i), self._rho)
        return u, log_p


def permutations(size: int, count: int, seed: int) -> Tensor:
    """Random orders `(count, size)`."""
    rng = generator(check_integer("seed", seed, 0), Stream.TUNING)
    check_integer("num_permutations", count, 1)
    return torch.stack([torch.randperm(size, generator=rng) for _ in range(count)])


def _prequential(scores: Tensor, rho: Tensor) -> Tensor:
    """Mean over the rows of Σ_i log p_{i-1}(y_i), for standardised data `(R, n)`."""
    u = torch.special.ndtr(scores)
    log_p = -0.5 * scores**2
    total = log_p.new_zeros(len(scores))
    for i in range(scores.shape[1]):
        total = total + log_p[:, 0]
        v, u, log_p = u[:, :1], u[:, 1:], log_p[:, 1:]
        u, log_p = stepped(u, log_p, v, weight(i + 1), rho)
    return total.mean()


def _within(logit: Tensor) -> Tensor:
    return logit.sigmoid().clamp(1e-4, 1 - 1e-4)
