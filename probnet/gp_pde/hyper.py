"""The posterior of the hyper-parameters in one dimension, by NUTS.

log w_q ~ N(log w⁰_q, 6²) relative to the total (the amplitude is profiled out), log ℓ_q ~ N(log
T/2, 1.5²), μ_q ~ N(peak, (1/T)²), and the factor exp(-NLL).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import inference
from probnet.gp_pde.evidence import LineEvidence
from probnet.gp_pde.inverse import MAX_SOLUTIONS
from probnet.gp_pde.newton import newton, solve_linear
from probnet.gp_pde.posterior import SpectralGPPosterior
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.solution import Solution

if TYPE_CHECKING:
    from probnet.gp_pde.fit import Fit

# Deep trees buy little: predictions depend weakly on what the evidence leaves open.
_SETTINGS = {"num_chains": 2, "num_warmup": 150, "num_samples": 150, "max_tree_depth": 5}
_NAMES = ("log_weight", "log_lengthscale", "frequency")


class _NegativeEvidence(torch.autograd.Function):
    """NLL of flat hyper-parameters, gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, evidence: LineEvidence, template: AxisPrior) -> Tensor:
        """The value; its gradient is kept."""
        with torch.enable_grad():
            leaf = flat.detach().clone().requires_grad_()
            nll = evidence.gradient(_prior(leaf, template))
        ctx.save_for_backward(torch.zeros_like(flat) if leaf.grad is None else leaf.grad)
        return torch.tensor(nll, dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride] - static methods of autograd
        """The kept gradient."""
        (gradient,) = ctx.saved_tensors
        return grads[0] * gradient, None, None


def sample_hyperparameters(
    fit: Fit, *, seed: int, progress: bool, **options: Any
) -> SpectralGPPosterior:
    """Sample hyper-parameters and condition at a few of their draws.

    Args:
        fit: the problem.
        seed: of the chains.
        progress: show a bar.
        **options: of `inference.sample`.

    Raises:
        ValueError: in more than one dimension.
    """
    problem = fit.problem
    if problem.pde.dim > 1:
        raise ValueError(
            "`method='nuts'` samples hyper-parameters in one dimension only; on grids use "
            "method='evidence', or give the equation an Unknown."
        )
    (best,), _ = fit.choose_prior(*fit.linear_part())
    slope, right = fit.linear_part()
    if problem.pde.nonlinearity is not None:
        engine = fit.engine((best,))
        start = engine.values(solve_linear(problem, engine).solution)
        result = newton(problem, engine, start, fit.settings.max_newton)
        slope, right = result.slope, result.right
    evidence = LineEvidence(problem.rows(slope, right), fit.nugget)
    draws = _sample(
        evidence,
        best,
        problem.lengths[0],
        {**_SETTINGS, **options, "seed": seed, "progress": progress},
    )
    count = draws.num_chains * draws.num_samples
    flat = {n: torch.from_numpy(draws.draws[n].reshape(count, -1).copy()) for n in _NAMES}
    solutions: list[Solution] = []
    nll, result = math.nan, None
    for i in np.linspace(0, count - 1, min(MAX_SOLUTIONS, count)).round().astype(int):
        prior = _prior(torch.cat([flat[n][i] for n in _NAMES]), best)
        nll, amplitude = evidence(prior)
        engine = fit.engine((prior.scaled(amplitude),))
        result = solve_linear(problem, engine)
        if problem.pde.nonlinearity is not None:
            start = engine.values(result.solution)
            result = newton(problem, engine, start, fit.settings.max_newton)
        solutions.append(fit.as_solution(result))
    if result is None:
        raise ValueError("`num_samples` must be at least 1.")
    return fit.assemble(solutions, fit.findings(result, nll), draws)


def _sample(
    evidence: LineEvidence,
    best: AxisPrior,
    length: float,
    settings: dict[str, Any],
) -> inference.Draws:
    q = len(best.weight)

    def model() -> None:
        log_weight = pyro.sample("log_weight", dist.Normal(best.weight.log(), 6.0).to_event(1))
        centre = torch.full((q,), math.log(length / 2), dtype=torch.float64)
        log_lengthscale = pyro.sample("log_lengthscale", dist.Normal(centre, 1.5).to_event(1))
        frequency = pyro.sample(
            "frequency", dist.Normal(best.frequency, 1 / length).to_event(1)
        )
        flat = torch.cat([log_weight, log_lengthscale, frequency])
        pyro.factor("evidence", -_NegativeEvidence.apply(flat, evidence, best))

    init = {
        "log_weight": best.weight.log(),
        "log_lengthscale": best.lengthscale.log(),
        "frequency": best.frequency,
    }
    return inference.sample(
        model,
        method="nuts",
        init=init,
        chain_method="sequential",
        **settings,
    )


def _prior(flat: Tensor, template: AxisPrior) -> AxisPrior:
    log_weight, log_lengthscale, frequency = flat.reshape(3, -1)
    return AxisPrior(
        log_weight.exp(),
        log_lengthscale.exp(),
        frequency,
        template.smoothness,
        template.period,
    )
