"""From draws through the network to a posterior: correct, decode, diagnose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference import Draws, diagnostics
from inference.errors import warn
from inference.rng import Stream, generator
from probnet.neural_operator.correction import (
    PARETO_LIMIT,
    Corrected,
    delayed_acceptance,
    reweight,
)
from probnet.neural_operator.inverse_posterior import InversePosterior, log_likelihood_at
from probnet.neural_operator.latent import LatentTarget
from probnet.neural_operator.latent_model import LatentModel
from probnet.neural_operator.model_error import SensorError
from probnet.neural_operator.observations import Observations

_PRIOR_DRAWS = 200
_RHAT_LIMIT = 1.05
_LAWS = {
    None: "latent posterior through the network",
    "psis": "exact discretised posterior under the latent prior, by importance weights",
    "delayed_acceptance": "exact discretised posterior under the latent prior",
}


class Case(NamedTuple):
    """One inversion problem with the law of the model error at its sensors.

    Attributes:
        observations: y, sensors, noise.
        error: of the network; `None` leaves it out of the likelihood.
    """

    observations: Observations
    error: SensorError | None


@dataclass(frozen=True, eq=False)
class Sampled:
    """Draws of one problem through the network.

    Attributes:
        base: w, shape (chain, draw, dim).
        method: how they were made.
        stats: statistics (chain, draw) of the sampler.
        attrs: of the run.
    """

    base: Tensor
    method: str
    stats: Mapping[str, np.ndarray]
    attrs: Mapping[str, Any]


def finish(
    model: LatentModel,
    case: Case,
    target: LatentTarget,
    sampled: Sampled,
    exact_correction: str | None,
    seed: int,
    *,
    progress: bool,
) -> InversePosterior:
    """Correct draws by the exact solver, decode them, and look at their convergence.

    Args:
        model: the latent model.
        case: the problem.
        target: what the draws were drawn from.
        sampled: the draws.
        exact_correction: `"psis"`, `"delayed_acceptance"` or `None`.
        seed: of everything random.
        progress: show a bar on a terminal.
    """
    corrected = _correct(
        model, case, target, sampled, exact_correction, seed, progress=progress
    )
    base = sampled.base if corrected is None else corrected.base
    stats = dict(sampled.stats) if base is sampled.base else {}
    z, a, u = (part.unflatten(0, base.shape[:2]) for part in model.decode(base.flatten(0, 1)))
    found: dict[str, Any] = {} if corrected is None else dict(corrected.diagnostics)
    exact = exact_correction == "delayed_acceptance" or bool(found.get("reweighted"))
    found["law"] = _LAWS[exact_correction if exact else None]
    if exact and corrected is not None:
        u = corrected.solutions
    elif case.error is not None:
        found["law"] += " with the model error in the likelihood"
        u = u + _drawn_error(model, case, case.error, base, seed)
    independent = bool(sampled.attrs.get("variational")) and base is sampled.base
    found |= {} if independent else _convergence(z, a)
    found |= {
        f"guide_{name}": sampled.attrs[name]
        for name in ("pareto_k", "elbo")
        if name in sampled.attrs
    }
    _warn(found, exact_correction)
    zeros = torch.zeros_like(case.observations.y)
    return InversePosterior(
        draws=Draws(
            draws={"z": z.numpy(), "a": a.float().numpy(), "u": u.float().numpy()},
            sample_stats=stats | _statistics(corrected, found, base.shape[:2]),
            attrs=sampled.attrs,
            groups={
                "prior": _prior(model, seed),
                "log_likelihood": _log_likelihoods(model, case, base, corrected),
            },
        ),
        observations=case.observations,
        problem=model.problem,
        method=sampled.method,
        diagnostics=found,
        error_mean=zeros if case.error is None else case.error.mean,
        error_covariance=torch.diag(zeros) if case.error is None else case.error.covariance,
    )


def _correct(
    model: LatentModel,
    case: Case,
    target: LatentTarget,
    sampled: Sampled,
    exact_correction: str | None,
    seed: int,
    *,
    progress: bool,
) -> Corrected | None:
    base = sampled.base
    if exact_correction == "psis":
        with torch.no_grad():
            log_surrogate = target.log_likelihood(base.flatten(0, 1))
        return reweight(model, case.observations, base, log_surrogate.reshape(base.shape[:2]))
    if exact_correction == "delayed_acceptance":
        return delayed_acceptance(
            model,
            case.observations,
            base,
            num_samples=base.shape[1],
            seed=seed,
            progress=progress,
        )
    return None


@torch.no_grad()
def _at_sensors(model: LatentModel, case: Case, base: Tensor) -> Tensor:
    """Values of the network at the sensors, shape (chain * draw, num_sensors)."""
    coefficients = model.base_coefficients(base.flatten(0, 1))
    return model.readout(case.observations.sensors)(coefficients)


def _drawn_error(
    model: LatentModel, case: Case, error: SensorError, base: Tensor, seed: int
) -> Tensor:
    """Model errors at the nodes given what every draw leaves unexplained."""
    residual = case.observations.y - _at_sensors(model, case, base)
    stream = generator(seed, Stream.PREDICTIVE)
    drawn = error.draw(residual, case.observations.noise_sd, stream)
    return drawn.unflatten(0, base.shape[:2])


def _log_likelihoods(
    model: LatentModel, case: Case, base: Tensor, corrected: Corrected | None
) -> dict[str, np.ndarray]:
    """Pointwise log likelihoods through the network, and through the solver if asked."""
    predicted = _at_sensors(model, case, base)
    error = case.error
    found = {
        "y": log_likelihood_at(
            case.observations,
            predicted,
            None if error is None else error.mean,
            None if error is None else error.covariance,
        )
    }
    if corrected is not None:
        observe = model.problem.observation_operator(case.observations.sensors)
        u = corrected.solutions.flatten(0, 1).unflatten(1, model.problem.solution_shape)
        found["y_exact"] = log_likelihood_at(case.observations, observe(u))
    return {name: v.unflatten(0, base.shape[:2]).numpy() for name, v in found.items()}


def _prior(model: LatentModel, seed: int) -> dict[str, np.ndarray]:
    """Draws of the latent prior, decoded by the network."""
    base = torch.randn(
        _PRIOR_DRAWS, model.dim, generator=generator(seed, Stream.INIT), dtype=torch.float64
    )
    z, a, u = model.decode(base)
    return {
        "z": z.numpy()[None],
        "a": a.float().numpy()[None],
        "u": u.float().numpy()[None],
    }


def _statistics(
    corrected: Corrected | None, found: Mapping[str, Any], shape: torch.Size
) -> dict[str, np.ndarray]:
    """Statistics of the correction, one value per draw."""
    if corrected is None:
        return {}
    stats = {
        "log_weight": corrected.log_weight.numpy(),
        "n_exact_solves": np.full(tuple(shape), found["n_exact_solves"]),
    }
    for name in ("pareto_k", "exact_accept_rate"):
        if name in found:
            stats[name] = np.full(tuple(shape), found[name])
    return stats


def _convergence(z: Tensor, a: Tensor) -> dict[str, float]:
    """R-hat and effective sample sizes of latent coordinates and of mean(a)."""
    mean = a.flatten(2).mean(-1).numpy()
    latent = z.numpy()
    found = {
        "rhat_z_max": float(np.max(diagnostics.rhat(latent))),
        "ess_z_min": float(np.min(diagnostics.ess(latent))),
    }
    if np.ptp(mean) > 0:
        found |= {
            "rhat_mean_a": float(diagnostics.rhat(mean)),
            "ess_mean_a": float(diagnostics.ess(mean)),
        }
    return found


def _warn(found: Mapping[str, Any], exact_correction: str | None) -> None:
    """Warn of chains that disagree, and of weights that cannot be used."""
    worst = max(found.get("rhat_z_max", 1.0), found.get("rhat_mean_a", 1.0))
    if not worst <= _RHAT_LIMIT:
        warn(
            f"the chains disagree: R-hat {worst:.2f} > {_RHAT_LIMIT}. Raise `num_warmup` and "
            f"`num_samples`, or `num_chains`."
        )
    if exact_correction == "psis" and not found["reweighted"]:
        warn(
            f"the exact posterior is too far from the network's to be reached by weights: "
            f"k-hat {found['pareto_k']:.2f} >= {PARETO_LIMIT}. The draws keep the network's "
            f"law; exact_correction='delayed_acceptance' gives the exact one."
        )
