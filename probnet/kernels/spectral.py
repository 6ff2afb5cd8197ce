"""Spectral mixtures: stationary kernels that are a mixture in frequency, with derivatives.

    k(r) = Σ_q w_q m(r / ℓ_q) cos(2π μ_q r),    r = x - x'

A Gaussian mixture in frequency has the envelope m(t) = exp(-t²/2), a Student-t mixture with 2ν
degrees of freedom the Matérn envelope of smoothness ν. Source: Fang et al. (ICLR 2024), whose ρ
is 1/(2ℓ²) for the Gaussian and 1/ℓ for the Student-t form.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar, cast

import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel
from torch import Tensor

from inference._checks import check_integer

SMOOTHNESSES = (2.5, 3.5, 4.5, math.inf)
"""ν of the envelopes: Matérn, and the Gaussian as the limit; four derivatives need ν > 2."""

_TAIL = 37.0  # images of a periodic kernel are summed until the envelope is 1e-16


def spectral_derivatives(
    lag: Tensor,
    weight: Tensor,
    lengthscale: Tensor,
    frequency: Tensor,
    *,
    smoothness: float = 2.5,
    max_order: int = 0,
    period: float | None = None,
) -> Tensor:
    """The kernel and its derivatives in r, k⁽⁰⁾(r) ... k⁽ᵖ⁾(r), in closed form.

    The envelope is a polynomial times a decaying exponential, whose derivatives are of the same
    form; those of the product with the cosine follow from Leibniz' rule.

    Args:
        lag: r, signed, any shape.
        weight: w_q > 0, shape `(Q,)`.
        lengthscale: ℓ_q > 0 in units of r, shape `(Q,)`.
        frequency: μ_q in cycles per unit of r, shape `(Q,)`.
        smoothness: ν, one of `SMOOTHNESSES`; infinity is the Gaussian mixture.
        max_order: p; below 2ν, so that the derivative exists at r = 0.
        period: sum over all images r + n * period: the kernel of periodic functions.

    Returns:
        Shape `(max_order + 1, *lag.shape)`.

    Raises:
        ValueError: if `smoothness` is not known or too low for that order.
    """
    envelopes = _envelope_polynomials(smoothness, check_integer("max_order", max_order, 0))
    rate = (math.sqrt(2 * smoothness) if math.isfinite(smoothness) else 0.5**0.5) / lengthscale
    r = lag.unsqueeze(-1)
    if period is not None:
        r = r - period * torch.round(r / period)
        reach = _TAIL if math.isfinite(smoothness) else math.sqrt(_TAIL)
        images = int(reach / (float(rate.detach().min()) * period)) + 1
        shifts = period * torch.arange(-images, images + 1, dtype=lag.dtype, device=lag.device)
        r = (r + shifts).unsqueeze(-1)  # (*lag, image, 1)
    x = rate * r
    size = x.abs()
    decay = torch.exp(-size if math.isfinite(smoothness) else -(size**2))
    sign = torch.sign(r)
    envelope: list[Tensor] = []
    for order, coefficients in enumerate(envelopes):
        value = torch.full_like(size, coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            value = value * size + coefficient
        envelope.append(rate**order * value * decay * (sign if order % 2 else 1.0))
    omega = 2 * math.pi * frequency
    cosine, sine = torch.cos(omega * r), torch.sin(omega * r)
    turns = (cosine, -sine, -cosine, sine)  # derivatives of the cosine
    found: list[Tensor] = []
    for order in range(max_order + 1):
        terms = [
            math.comb(order, i) * envelope[i] * omega ** (order - i) * turns[(order - i) % 4]
            for i in range(order + 1)
        ]
        total = (weight * torch.stack(terms).sum(0)).sum(-1)
        found.append(total if period is None else total.sum(-1))
    return torch.stack(found)


@lru_cache
def _envelope_polynomials(smoothness: float, max_order: int) -> tuple[tuple[float, ...], ...]:
    """P_n of m⁽ⁿ⁾ = P_n(x) times the decay, n = 0 ... max_order, lowest power first.

    With decay e⁻ˣ, P_{n+1} = P_n' - P_n; with decay exp(-x²), P_{n+1} = P_n' - 2x P_n.
    """
    if smoothness not in SMOOTHNESSES:
        raise ValueError(f"`smoothness` must be one of {SMOOTHNESSES}; got {smoothness!r}.")
    if max_order >= 2 * smoothness:
        raise ValueError(
            f"`smoothness` {smoothness:g} has derivatives up to order "
            f"{math.ceil(2 * smoothness) - 1}; {max_order} were asked for. Take a larger one."
        )
    if math.isfinite(smoothness):
        p = int(smoothness - 0.5)
        leading = math.factorial(p) / math.factorial(2 * p)
        polynomial = [
            leading
            * math.factorial(2 * p - i)
            / math.factorial(p - i)
            * 2**i
            / math.factorial(i)
            for i in range(p + 1)
        ]
    else:
        polynomial = [1.0]
    found = [tuple(polynomial)]
    for _ in range(max_order):
        slope = [*[i * c for i, c in enumerate(polynomial)][1:], 0.0, 0.0]
        if math.isfinite(smoothness):
            polynomial = [d - c for d, c in zip(slope, polynomial, strict=False)]
        else:
            shifted = [0.0, *(2 * c for c in polynomial)]
            slope += [0.0] * (len(shifted) - len(slope))
            polynomial = [d - c for d, c in zip(slope, shifted, strict=False)]
        found.append(tuple(polynomial))
    return tuple(found)


class _SpectralMixture(Kernel):
    """What the two mixtures share: positive parameters of shape `(Q,)` and the formula."""

    smoothness: float
    is_stationary: ClassVar[bool] = True  # pyright: ignore[reportIncompatibleMethodOverride] - a property there

    def __init__(
        self, num_mixtures: int, *, period: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_mixtures = check_integer("num_mixtures", num_mixtures, 1)
        self.period = period
        for name, start in (
            ("weight", torch.full((num_mixtures,), 1 / num_mixtures)),
            ("mixture_lengthscale", torch.ones(num_mixtures)),
        ):
            self.register_parameter(f"raw_{name}", torch.nn.Parameter(torch.zeros_like(start)))
            self.register_constraint(f"raw_{name}", Positive())
            self.initialize(**{f"raw_{name}": self._constraint(name).inverse_transform(start)})
        start = torch.arange(num_mixtures, dtype=torch.get_default_dtype())
        self.register_parameter("frequency", torch.nn.Parameter(start))

    def _constraint(self, name: str) -> Positive:
        return cast(Positive, getattr(self, f"raw_{name}_constraint"))

    @property
    def weight(self) -> Tensor:
        """w_q, shape `(Q,)`."""
        return self._constraint("weight").transform(cast(Tensor, self.raw_weight))

    @property
    def mixture_lengthscale(self) -> Tensor:
        """ℓ_q, shape `(Q,)`."""
        raw = cast(Tensor, self.raw_mixture_lengthscale)
        return self._constraint("mixture_lengthscale").transform(raw)

    def set_components(self, weight: Tensor, lengthscale: Tensor, frequency: Tensor) -> None:
        """Set every w_q, ℓ_q and μ_q, each of shape `(Q,)`."""
        invert = {
            f"raw_{name}": self._constraint(name).inverse_transform(value)
            for name, value in (("weight", weight), ("mixture_lengthscale", lengthscale))
        }
        self.initialize(**invert, frequency=frequency)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - as GPyTorch's own kernels
        self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any
    ) -> Tensor:
        """Gram matrix of inputs `(*batch, n, 1)` and `(*batch, m, 1)`, or its diagonal."""
        return self.derivatives(x1, x2, diag=diag)[0]

    def derivatives(
        self, x1: Tensor, x2: Tensor, *, max_order: int = 0, diag: bool = False
    ) -> Tensor:
        """k⁽ᵖ⁾(x1 - x2) for p = 0 ... max_order, shape `(max_order + 1, *batch, n, m)`.

        Cov(u⁽ᵃ⁾(x), u⁽ᵇ⁾(x')) is (-1)ᵇ k⁽ᵃ⁺ᵇ⁾(x - x').
        """
        lag = (x1 - x2).squeeze(-1) if diag else x1 - x2.mT
        return spectral_derivatives(
            lag,
            self.weight.to(lag),
            self.mixture_lengthscale.to(lag),
            cast(Tensor, self.frequency).to(lag),
            smoothness=self.smoothness,
            max_order=max_order,
            period=self.period,
        )


class GaussianSpectralMixture(_SpectralMixture):
    r"""k(r) = Σ_q w_q exp(-r²/(2ℓ_q²)) cos(2π μ_q r).

    Source: Wilson & Adams (ICML 2013). Infinitely differentiable.

    Args:
        num_mixtures: Q.
        period: makes every function of the prior periodic.
        **kwargs: of `gpytorch.kernels.Kernel`.
    """

    smoothness = math.inf


class StudentTSpectralMixture(_SpectralMixture):
    r"""k(r) = Σ_q w_q m_ν(r/ℓ_q) cos(2π μ_q r) with the Matérn function m_ν.

    In frequency each component is a Student-t density with 2ν degrees of freedom. Source: Fang
    et al. (ICLR 2024).

    Args:
        num_mixtures: Q.
        smoothness: ν, one of 2.5, 3.5 and 4.5.
        period: makes every function of the prior periodic.
        **kwargs: of `gpytorch.kernels.Kernel`.

    Raises:
        ValueError: on another ν.
    """

    def __init__(self, num_mixtures: int, smoothness: float = 2.5, **kwargs: Any) -> None:
        super().__init__(num_mixtures, **kwargs)
        if smoothness not in SMOOTHNESSES[:-1]:
            raise ValueError(
                f"`smoothness` must be one of {SMOOTHNESSES[:-1]}; got {smoothness!r}."
            )
        self.smoothness = smoothness
