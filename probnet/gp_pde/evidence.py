"""Hyper-parameters of the prior of one axis by the exact marginal likelihood of all rows.

Without noise the amplitude is profiled out: with G = s² (G₀ + nugget), s² = yᵀG₀⁻¹y/n and
NLL = ½ n log s² + ½ log |G₀|. With noise the weights are absolute and NLL = ½ yᵀG⁻¹y + ½
log|G|.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.rows import Rows, unique_lags
from probnet.linalg import EquilibratedCholesky

Array = NDArray[np.float64]

LENGTHSCALES = (0.1, 0.3, 1.0, 3.0)
"""Lengthscales tried, in lengths of the domain."""

_LONGEST, _LONGEST_PERIODIC = 20.0, 0.5  # images of a long periodic kernel cost time

_FAILED = 1e12  # NLL of parameters whose Gram matrix cannot be factorised
_PRUNE = 0.1  # nats that a component must be worth


@dataclass(frozen=True)
class FittedPrior:
    """A prior with its evidence.

    Attributes:
        prior: amplitude included.
        nll: negative log evidence.
        num_iterations: of L-BFGS.
    """

    prior: AxisPrior
    nll: float
    num_iterations: int


class LineEvidence:
    """NLL of rows along one axis, and its gradient in closed form.

    dNLL = ½ tr(W dG) with W = G⁻¹ - ααᵀ/s². G is linear in the tables k⁽ᵖ⁾ at the distinct
    lags, so W is summed over equal lags and only the tables are differentiated.

    Args:
        rows: what is known about u; one-dimensional.
        nugget: ε, relative; never raised here, so that NLL is smooth.
    """

    def __init__(self, rows: Rows, nugget: float) -> None:
        self.rows, self.nugget = rows, nugget
        self.profiled = not bool((rows.noise_var > 0).any())
        self._lags, self._index = unique_lags(rows.x[:, 0], rows.x[:, 0])
        self._flat = self._index.reshape(-1).numpy()
        self._products: dict[int, Tensor] = {}  # what multiplies k⁽ᵖ⁾ in G
        for (i,), a in rows.coefficients.items():
            for (j,), b in rows.coefficients.items():
                block = (-1) ** j * a[:, None] * b
                self._products[i + j] = self._products.get(i + j, torch.zeros(())) + block

    def __call__(self, prior: AxisPrior) -> tuple[float, float]:
        """NLL and the profiled s² (1 with noise); infinite NLL where G is singular."""
        with torch.no_grad():
            found = self._evaluate(self._tables(prior))
        return (math.inf, 1.0) if found is None else found[:2]

    def gradient(self, prior: AxisPrior) -> float:
        """NLL, its gradient accumulated in the parameters of `prior` that require one."""
        tables = self._tables(prior)
        with torch.no_grad():
            found = self._evaluate(tables)
            if found is None:
                return math.inf
            nll, amplitude, factor, alpha = found
            weights = factor.inverse() - alpha[:, None] * alpha / amplitude
            weights.diagonal().mul_(1.0 + self.nugget)
            slopes = torch.zeros_like(tables)
            for order, product in self._products.items():
                slopes[order] = 0.5 * torch.from_numpy(
                    np.bincount(
                        self._flat,
                        weights=(weights * product).reshape(-1).numpy(),
                        minlength=len(self._lags),
                    )
                )
        tables.backward(slopes)
        return nll

    def _tables(self, prior: AxisPrior) -> Tensor:
        return prior.derivatives(self._lags, max(self._products))

    def _evaluate(
        self, tables: Tensor
    ) -> tuple[float, float, EquilibratedCholesky, Tensor] | None:
        rows, n = self.rows, len(self.rows)
        gram = torch.zeros(n, n, dtype=torch.float64)
        for order, product in self._products.items():
            gram += product * tables[order][self._index]
        try:
            factor = EquilibratedCholesky(gram, self.nugget, rows.noise_var, raises=0)
        except ValueError:
            return None
        alpha = factor.solve(rows.values)
        quadratic = float(rows.values @ alpha)
        if not self.profiled:
            return 0.5 * (quadratic + factor.log_det), 1.0, factor, alpha
        if quadratic < 0:
            return None
        if quadratic == 0:  # all data are zero, and every prior explains them
            return 0.5 * factor.log_det, 1.0, factor, alpha
        amplitude = quadratic / n
        nll = 0.5 * (n * math.log(amplitude) + factor.log_det)
        return nll, amplitude, factor, alpha


def with_envelope(
    start: AxisPrior, length: float, smoothness: float, share: float
) -> AxisPrior:
    """The same frequencies with another smoothness, and a lengthscale in lengths of the axis.

    Periodic axes take half their length at most.
    """
    if start.period is not None:
        share = min(share, _LONGEST_PERIODIC)
    lengthscale = torch.full_like(start.weight, share * length)
    return replace(start, lengthscale=lengthscale, smoothness=smoothness)


def best_start(
    evidence: LineEvidence,
    starts: Sequence[AxisPrior],
    length: float,
    smoothnesses: Sequence[float],
) -> FittedPrior:
    """The best of all starts with every smoothness and lengthscale.

    Raises:
        ValueError: if the Gram matrix is singular for all of them.
    """
    best: FittedPrior | None = None
    for start, smoothness, share in itertools.product(starts, smoothnesses, LENGTHSCALES):
        prior = with_envelope(start, length, smoothness, share)
        nll, amplitude = evidence(prior)
        if math.isfinite(nll) and (best is None or nll < best.nll):
            best = FittedPrior(prior.scaled(amplitude), nll, 0)
    if best is None:
        raise ValueError(
            "`gram` is singular for every smoothness and lengthscale tried: are two rows the "
            "same, or do conditions contradict the equation? A larger `nugget` may help."
        )
    return best


def fit_line(
    evidence: LineEvidence, start: AxisPrior, *, length: float, spacing: float, max_iter: int
) -> FittedPrior:
    """L-BFGS-B over log w, log ℓ and μ; the frequency of the first component stays zero.

    Source: bounds 2h <= ℓ <= 20T and 0 <= μ <= 0.55/h for spacing h and length T.

    Args:
        evidence: of the rows.
        start: where to begin.
        length: T.
        spacing: h.
        max_iter: iterations.
    """
    q = len(start.weight)
    longest = _LONGEST if start.period is None else _LONGEST_PERIODIC
    bounds = (
        [(None, None)] * q
        + [(math.log(2 * spacing), math.log(longest * length))] * q
        + [(0.0, 0.55 / spacing * length)] * (q - 1)
    )

    def unpack(theta: Tensor) -> AxisPrior:
        frequency = torch.cat([torch.zeros(1, dtype=torch.float64), theta[2 * q :] / length])
        return AxisPrior(
            theta[:q].exp(), theta[q : 2 * q].exp(), frequency, start.smoothness, start.period
        )

    def objective(theta: Array) -> tuple[float, Array]:
        leaf = torch.from_numpy(theta.copy()).requires_grad_()
        nll = evidence.gradient(unpack(leaf))
        if leaf.grad is None:
            return _FAILED, np.zeros_like(theta)
        return nll, leaf.grad.numpy()

    theta = torch.cat(
        [start.weight.log(), start.lengthscale.log(), start.frequency[1:] * length]
    )
    found = minimize(
        objective,
        theta.numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": max_iter, "maxcor": 20},
    )
    prior = unpack(torch.from_numpy(found.x))
    nll, amplitude = evidence(prior)
    if not nll <= evidence(start)[0]:  # a failed line search must not make things worse
        return FittedPrior(start, evidence(start)[0], int(found.nit))
    return FittedPrior(prior.scaled(amplitude), nll, int(found.nit))


def prune(evidence: LineEvidence, fitted: FittedPrior) -> FittedPrior:
    """Drop components, weakest first, whose removal costs less than 0.1 nats."""
    prior, nll = fitted.prior, fitted.nll
    for _ in range(len(prior.weight) - 1):
        weakest = int(prior.weight.argmin())
        keep = torch.arange(len(prior.weight)) != weakest
        fewer = AxisPrior(
            prior.weight[keep],
            prior.lengthscale[keep],
            prior.frequency[keep],
            prior.smoothness,
            prior.period,
        )
        reduced, amplitude = evidence(fewer)
        if not reduced < nll + _PRUNE:
            break
        prior, nll = fewer.scaled(amplitude), min(reduced, nll)
    return FittedPrior(prior, nll, fitted.num_iterations)
