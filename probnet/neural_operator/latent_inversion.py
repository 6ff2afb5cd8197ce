"""Inversion with a latent model: sample through the network, then `finish`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference._checks import check_choice, check_integer
from probnet._checks import Values
from probnet.neural_operator.finishing import Case, Sampled, finish
from probnet.neural_operator.inverse_posterior import InversePosterior
from probnet.neural_operator.latent import (
    LatentTarget,
    Modes,
    Whitened,
    find_modes,
    latent_target,
    starting_points,
    whiten,
)
from probnet.neural_operator.latent_model import LatentModel
from probnet.neural_operator.latent_sampling import METHODS, sample_many, sample_one
from probnet.neural_operator.model_error import ModelError
from probnet.neural_operator.observations import check_observations

CORRECTIONS = ("psis", "delayed_acceptance")
_PROBLEMS_AT_ONCE = 4  # Jacobians of all of them would not fit into memory


def invert_model(
    model: LatentModel,
    y: Values,
    sensors: Values,
    *,
    noise_sd: float | None,
    error: ModelError | None,
    method: str = "nuts",
    num_chains: int = 4,
    num_samples: int = 500,
    num_warmup: int | None = None,
    seed: int = 0,
    exact_correction: str | None = "psis",
    progress: bool = True,
    **options: Any,
) -> InversePosterior:
    """See `invert`; for a latent model and a law of its error."""
    _check(method, exact_correction, num_chains, num_samples, seed)
    case = _case(model, y, sensors, noise_sd, error)
    target, whitened, starts = _prepare(model, [case], num_chains, seed)
    draws = sample_one(
        whitened,
        starts,
        method=method,
        num_samples=num_samples,
        num_warmup=num_warmup,
        seed=seed,
        progress=progress,
        options=options,
    )
    v = torch.from_numpy(np.array(draws.draws["v"]))
    base = whitened.base(v.flatten(0, 1)).reshape(v.shape)
    stats = {name: np.asarray(values) for name, values in draws.sample_stats.items()}
    sampled = Sampled(base, method, stats, dict(draws.attrs))
    return finish(model, case, target, sampled, exact_correction, seed, progress=progress)


def invert_models(
    model: LatentModel,
    ys: Sequence[Values],
    sensors: Sequence[Values],
    *,
    noise_sd: float | None,
    error: ModelError | None,
    num_chains: int = 4,
    num_samples: int = 500,
    num_warmup: int | None = None,
    seed: int = 0,
    exact_correction: str | None = "psis",
    progress: bool = True,
) -> list[InversePosterior]:
    """See `invert_many`; for a latent model and a law of its error."""
    _check("hmc", exact_correction, num_chains, num_samples, seed)
    if not len(ys) or len(ys) != len(sensors):
        raise ValueError(
            f"`ys` and `sensors` must have one entry per problem, at least one; got {len(ys)} "
            f"and {len(sensors)}."
        )
    cases = [
        _case(model, y, positions, noise_sd, error)
        for y, positions in zip(ys, sensors, strict=True)
    ]
    counts = {len(case.observations.y) for case in cases}
    if len(counts) > 1:
        raise ValueError(
            f"`ys` must have the same number of observations in every problem; got "
            f"{sorted(counts)}. Call `invert` for each, or group them."
        )
    _, whitened, starts = _prepare(model, cases, num_chains, seed)
    v, stats = sample_many(
        whitened,
        starts,
        num_samples=num_samples,
        num_warmup=num_warmup,
        seed=seed,
        progress=progress,
    )
    base = whitened.base(v.flatten(0, 2)).reshape(v.shape)
    found: list[InversePosterior] = []
    for i, case in enumerate(cases):
        own = {name: values[i] for name, values in stats.items()}
        sampled = Sampled(base[i], "hmc", own, {"method": "hmc", "seed": seed})
        target = _target(model, [case])
        found.append(
            finish(model, case, target, sampled, exact_correction, seed, progress=progress)
        )
    return found


def _check(
    method: str, exact_correction: str | None, num_chains: int, num_samples: int, seed: int
) -> None:
    check_choice("method", method, METHODS)
    if exact_correction is not None:
        check_choice("exact_correction", exact_correction, CORRECTIONS)
    check_integer("num_chains", num_chains, 1)
    check_integer("num_samples", num_samples, 4)
    check_integer("seed", seed, 0)


def _case(
    model: LatentModel,
    y: Values,
    sensors: Values,
    noise_sd: float | None,
    error: ModelError | None,
) -> Case:
    observations = check_observations(model.problem, y, sensors, noise_sd)
    if error is None:
        return Case(observations, None)
    observe = model.problem.observation_operator(observations.sensors)
    shape = model.problem.solution_shape
    return Case(observations, error.at(lambda values: observe(values.unflatten(-1, shape))))


def _target(model: LatentModel, cases: Sequence[Case]) -> LatentTarget:
    return latent_target(
        model.base_coefficients,
        [model.readout(case.observations.sensors) for case in cases],
        [case.observations for case in cases],
        [case.error for case in cases],
        model.dim,
    )


def _prepare(
    model: LatentModel, cases: Sequence[Case], num_chains: int, seed: int
) -> tuple[LatentTarget, Whitened, Tensor]:
    target = _target(model, cases)
    parts = [
        find_modes(_target(model, cases[i : i + _PROBLEMS_AT_ONCE]), seed=seed)
        for i in range(0, len(cases), _PROBLEMS_AT_ONCE)
    ]
    modes = Modes(*(torch.cat(part) for part in zip(*parts, strict=True)))
    return target, whiten(target, modes), starting_points(modes, num_chains, seed=seed)
