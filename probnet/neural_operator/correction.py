"""From the network's posterior to that of the exact solver: weights, or delayed acceptance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference import diagnostics
from inference.progress import progress_bar
from probnet.neural_operator.exact import ExactChains, SolverLikelihood
from probnet.neural_operator.kernels import CrankNicolson
from probnet.neural_operator.latent_model import LatentModel
from probnet.neural_operator.observations import Observations

PARETO_LIMIT = 0.7
_STEPS_PER_DRAW = 100
_WARMUP = 0.25
_WIDENING = 2.0  # of the network's posterior: a reference narrower than the target traps chains


@dataclass(frozen=True, eq=False)
class Corrected:
    """Draws whose law is corrected by the exact solver.

    Attributes:
        base: w, shape (chain, draw, dim).
        solutions: exact, at the nodes, shape (chain, draw, num_nodes).
        log_exact: exact log likelihood without its constant, shape (chain, draw).
        log_weight: smoothed importance log weights (chain, draw), zero if there are none.
        diagnostics: JSON-able.
    """

    base: Tensor
    solutions: Tensor
    log_exact: Tensor
    log_weight: Tensor
    diagnostics: dict[str, Any]


def reweight(
    model: LatentModel, observations: Observations, base: Tensor, log_surrogate: Tensor
) -> Corrected:
    """Pareto-smoothed importance weights exp(ℓ_exact - ℓ_surrogate).

    Source: Vehtari, Simpson, Gelman, Yao & Gabry (JMLR 2024).

    Args:
        model: decodes inputs.
        observations: y, sensors, noise.
        base: draws of w, shape (chain, draw, dim).
        log_surrogate: log likelihood that they were drawn under, shape (chain, draw).
    """
    shape = base.shape[:2]
    exact = SolverLikelihood(model.problem, observations, model.decode_base)
    solutions = exact.solve(base.flatten(0, 1))
    log_exact = exact.of_solutions(solutions)
    difference = log_exact - log_surrogate.flatten()
    smoothed, pareto_k = diagnostics.pareto_smoothed(difference.numpy())
    return Corrected(
        base=base,
        solutions=solutions.flatten(1).unflatten(0, shape),
        log_exact=log_exact.unflatten(0, shape),
        log_weight=torch.from_numpy(smoothed).unflatten(0, shape),
        diagnostics={
            "pareto_k": pareto_k,
            "n_exact_solves": len(log_exact),
            "sd_log_weight": float(difference.std()),
            "reweighted": pareto_k < PARETO_LIMIT,
        },
    )


def delayed_acceptance(
    model: LatentModel,
    observations: Observations,
    base: Tensor,
    *,
    num_samples: int,
    seed: int,
    progress: bool,
) -> Corrected:
    """Chains for p(w) N(y; H G(a(w)), σ²I), started from the network's posterior.

    Crank-Nicolson moves in coordinates v, w = m + Bv, in which the network's posterior,
    widened, is standard normal; the likelihood gets the ratio of the prior to that reference.
    The solver on coarser meshes screens, see `probnet.neural_operator.exact.ExactChains`.

    Args:
        model: decodes inputs.
        observations: y, sensors, noise.
        base: draws of w through the network, shape (chain, draw, dim).
        num_samples: draws per chain; each is at least 100 steps of the kernel after the last.
        seed: of everything random.
        progress: show a bar on a terminal.
    """
    flat = base.flatten(0, 1)
    centre = flat.mean(0)
    # The prior's share keeps directions open that the network determines too sharply.
    covariance = _WIDENING**2 * flat.T.cov()
    factor = torch.linalg.cholesky(covariance + 1e-3 * torch.eye(len(centre)).double())

    def to_base(v: Tensor) -> Tensor:
        return centre + v @ factor.T

    def tilt(v: Tensor) -> Tensor:
        return (v.square().sum(-1) - to_base(v).square().sum(-1)) / 2

    start = torch.linalg.solve_triangular(factor, (base[:, -1] - centre).T, upper=False).T
    warmup = int(_WARMUP * num_samples)
    kept: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        chains = ExactChains(
            model.problem,
            observations,
            lambda v: model.decode_base(to_base(v)),
            CrankNicolson(len(start)),
            start,
            num_warmup=warmup * _STEPS_PER_DRAW,
            tilt=tilt,
            seed=seed,
        )
        with progress_bar(warmup + num_samples, 0, progress) as bar:
            for draw in range(warmup + num_samples):
                for _ in range(-(-_STEPS_PER_DRAW // chains.steps_per_test)):
                    chains.step()
                bar.advance(1, dict[str, str], warmup=draw < warmup)
                if draw >= warmup:
                    v = chains.state.position
                    kept.append((v, chains.state.values[-1] - tilt(v)))
        v, log_exact = (torch.stack(part, 1) for part in zip(*kept, strict=True))
        different, which = v.flatten(0, 1).unique(dim=0, return_inverse=True)
        solutions = chains.exact.solve(different).flatten(1)[which]
    exact_solves, coarse_solves = chains.num_solves
    return Corrected(
        base=to_base(v),
        solutions=solutions.unflatten(0, v.shape[:2]),
        log_exact=log_exact,
        log_weight=torch.zeros_like(log_exact),
        diagnostics={
            "n_exact_solves": exact_solves + len(different),
            "n_coarse_solves": coarse_solves,
            "exact_accept_rate": float(chains.accept_rate.mean()),
            "reweighted": False,
        },
    )
