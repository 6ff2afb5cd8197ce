"""Unknown coefficients and amplitudes from noisy observations of u, by NUTS.

The likelihood is that of the observations given the solution: y ~ N(u_θ(x), noise_sd²), where
u_θ solves the equation at θ. (The density of "L_θ u = f" itself is no likelihood of θ: it
changes with the scale of the equation.) The equation is affine in θ, so that the sensitivity
∂u/∂θ_k = -J⁻¹ ∂r/∂θ_k costs one more solve with the operator that is factorised already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

import inference
from inference.rng import Stream, scoped_seed, stream_seed
from probnet.gp_pde.discretisation import discretise
from probnet.gp_pde.engines import GridEngine
from probnet.gp_pde.newton import NewtonResult, newton, solve_linear
from probnet.gp_pde.posterior import SpectralGPPosterior
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.system import grid_system, interpolate
from probnet.likelihoods import Gaussian
from probnet.linalg import mode_product
from probnet.pde import PDE, Condition, Observations, Unknown
from probnet.pde.functions import mesh, values_at

if TYPE_CHECKING:
    from probnet.gp_pde.fit import Fit

MAX_SOLUTIONS = 16
"""Posterior draws of the unknowns whose solutions make the predictive mixture."""

_SETTINGS = {"num_chains": 2, "num_warmup": 300, "num_samples": 500}
_NUM_STARTS = 40
_LARGE_ERROR = 0.2  # share of the noise, beyond which the solver's own error matters


class ForwardModel:
    """The map from unknowns to u at points, with its gradient.

    Args:
        fit: the problem at some values of the unknowns.
        prior: of u, one per axis.
        x: points, shape `(n, d)`.
    """

    def __init__(self, fit: Fit, prior: Sequence[AxisPrior], x: Tensor) -> None:
        self.fit, self.x, self.pde = fit, x, fit.problem.pde
        self._template = grid_system(fit.problem, prior, fit.nugget)
        self._axes = self._template.axes
        self._points = mesh(fit.problem.nodes)

    def solve(self, unknown: Mapping[str, Tensor]) -> NewtonResult:
        """The solution at values of the unknowns."""
        fixed = {name: value.detach() for name, value in unknown.items()}
        problem = replace(
            self.fit.problem,
            coefficients=self.pde.coefficients(self._points, fixed),
            source=self.pde.source_values(self._points, fixed),
        )
        system = replace(
            self._template, coefficients=problem.coefficients, right=problem.source
        )
        system.__dict__["axes"] = self._axes
        engine = GridEngine(system)
        result = solve_linear(problem, engine)
        if self.pde.nonlinearity is None:
            return result
        return newton(problem, engine, result.solution.u, self.fit.settings.max_newton)

    def __call__(self, unknown: Mapping[str, Tensor]) -> Tensor:
        """U at the points; differentiable in the unknowns."""
        if not all(bool(torch.isfinite(value)) for value in unknown.values()):
            return sum(unknown.values(), torch.zeros(len(self.x)).double()) * torch.nan
        solution = self.solve(unknown).solution
        operator, none = solution.system.operator, [None] * self.pde.dim
        fields = [solution.u]
        fields += [operator.solve(-self._slope(name, solution.u), none) for name in unknown]
        u, *slopes = interpolate(self._axes, torch.stack(fields), self.x)
        for value, slope in zip(unknown.values(), slopes, strict=True):
            u = u + (value - value.detach()) * slope
        return u

    def _slope(self, name: str, u: Tensor) -> Tensor:
        """∂/∂θ of L_θ u - f_θ for fixed u."""
        total = torch.zeros_like(u)
        for alpha, entry in self.pde.terms.items():
            if isinstance(entry, Unknown) and entry.name == name:
                term = u
                for axis, order in enumerate(alpha):
                    if order:
                        term = mode_product(self._axes[axis].derivatives[order], term, axis)
                total = (
                    total + values_at(f"terms[{alpha}].times", entry.times, self._points) * term
                )
        source = self.pde.source
        if isinstance(source, Unknown) and source.name == name:
            total = total - values_at("source.times", source.times, self._points)
        return total


def fit_unknowns(
    make_fit: Any,
    pde: PDE,
    conditions: Condition | Sequence[Condition],
    observations: Observations | None,
    *,
    grid: Sequence[int],
    seed: int,
    progress: bool,
    **options: Any,
) -> SpectralGPPosterior:
    """Sample the unknowns and solve at a few of their draws.

    Args:
        make_fit: makes a `Fit` of a discretised problem.
        pde: with its unknowns.
        conditions: exact.
        observations: of u.
        grid: nodes per axis.
        seed: of the chains.
        progress: show a bar.
        **options: of `inference.sample`.

    Raises:
        ValueError: without observations, or with noise anywhere else.
    """
    if observations is None:
        raise ValueError(
            f"`observations` are needed to infer the unknowns {sorted(pde.unknowns)}."
        )
    x = torch.as_tensor(observations.x)

    def forward_at(unknown: Mapping[str, Tensor]) -> tuple[ForwardModel, float]:
        problem = discretise(pde, conditions, grid, unknown=unknown)
        if problem.noisy:
            raise ValueError(
                "`noise_sd` of source and conditions must be 0 where unknowns are inferred: "
                "the noise is that of the observations."
            )
        fit: Fit = make_fit(problem)
        prior, nll = fit.choose_prior(*fit.linear_part())
        return ForwardModel(fit, prior, x), nll

    centre = {name: _centre(unknown.prior) for name, unknown in pde.unknowns.items()}
    start = _best_start(forward_at(centre)[0], observations, centre, seed)
    forward, nll = forward_at(start)
    fit = forward.fit
    draws = _sample(
        forward,
        observations,
        start,
        {**_SETTINGS, **options, "seed": seed, "progress": progress},
    )
    values = _thinned(draws, pde)
    results = [forward.solve(value) for value in values]
    solutions = [fit.as_solution(result) for result in results]
    sampled = draws.draws.get("noise_sd")
    noise = _noise_sd(observations) if sampled is None else float(sampled.mean())
    diagnostics = fit.findings(results[-1], nll, values[-1])
    error = max(float(s.variance(x[:1000]).sqrt().max()) for s in solutions[-1:])
    diagnostics["solver_sd_over_noise"] = error / noise
    if error > _LARGE_ERROR * noise:
        diagnostics["warnings"].append(
            f"the solver's own error at the observations, {error:.1e}, is not small beside "
            f"their noise, {noise:.1e}: intervals of the unknowns are too narrow. "
            "Refine `grid`."
        )
    return replace(fit.assemble(solutions, diagnostics, draws), noise_sd=noise)


def _best_start(
    forward: ForwardModel,
    observations: Observations,
    centre: Mapping[str, Tensor],
    seed: int,
) -> dict[str, Tensor]:
    """The likeliest of some draws from the prior, and of its centre.

    Frequencies and speeds have likelihoods with many modes, which chains do not leave.
    """
    y, noise = torch.as_tensor(observations.y), _noise_sd(observations)
    candidates = [dict(centre)]
    with scoped_seed(stream_seed(seed, Stream.INIT)):
        for _ in range(_NUM_STARTS):
            candidates.append({n: u.prior.sample() for n, u in forward.pde.unknowns.items()})

    def misfit(unknown: Mapping[str, Tensor]) -> float:
        try:
            u = forward.solve(unknown).solution.mean(forward.x)
        except ValueError:  # no solution there
            return float("inf")
        found = float((u - y).square().sum()) / (2 * noise**2)
        return found if math.isfinite(found) else float("inf")

    return min(candidates, key=misfit)


def _sample(
    forward: ForwardModel,
    observations: Observations,
    start: Mapping[str, Tensor],
    settings: dict[str, Any],
) -> inference.Draws:
    unknowns, y = forward.pde.unknowns, torch.as_tensor(observations.y)
    sample: Any = pyro.sample  # priors are Pyro's, see `Unknown`, but typed as torch's
    likelihood = Gaussian(noise_sd=observations.noise_sd)

    def model() -> None:
        unknown: dict[str, Any] = {n: sample(n, u.prior) for n, u in unknowns.items()}
        parameters = likelihood.sample_parameters()
        values = forward(unknown)
        with pyro.plate("observation", len(y)):
            likelihood.observe("y", values, y, **parameters)

    init = {**start, **{n: _centre(p) for n, p in likelihood.priors.items()}}
    return inference.sample(
        model,
        method="nuts",
        init=init,
        chain_method="sequential",
        **settings,
    )


def _thinned(draws: inference.Draws, pde: PDE) -> list[dict[str, Tensor]]:
    flat = {name: draws.draws[name].reshape(-1) for name in pde.unknowns}
    count = len(next(iter(flat.values())))
    chosen = np.linspace(0, count - 1, min(MAX_SOLUTIONS, count)).round().astype(int)
    return [{n: torch.tensor(float(v[i])).double() for n, v in flat.items()} for i in chosen]


def _noise_sd(observations: Observations) -> float:
    """The noise, or a typical value of its prior."""
    noise_sd = observations.noise_sd
    return float(_centre(noise_sd)) if isinstance(noise_sd, Distribution) else float(noise_sd)


def _centre(prior: Distribution) -> Tensor:
    """A typical value: the mean, or the location of a law that has none."""
    value = prior.mean
    if not bool(torch.isfinite(value)):
        value = prior.icdf(torch.tensor(0.5))
    return value.detach().to(torch.float64)
