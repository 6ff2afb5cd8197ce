"""The gold standard of inversion: the exact posterior of a medium, with no network."""

from __future__ import annotations

import numpy as np
import torch

from inference import Draws
from inference.rng import Stream, stream_seed
from probnet._checks import Values
from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator.inverse_posterior import InversePosterior, log_likelihood_at
from probnet.neural_operator.observations import check_observations
from probnet.neural_operator.problem import Problem
from probnet.neural_operator.reference_chains import FIRST_LENGTH, run_chains

_PRIOR_DRAWS = 200


def reference_posterior(
    problem: Problem,
    y: Values,
    sensors: Values,
    *,
    noise_sd: float | None = None,
    prior: LevelSetGRF | None = None,
    num_samples: int = 500,
    num_chains: int = 4,
    seed: int = 0,
    first_length: int = FIRST_LENGTH,
    max_length: int = 64 * FIRST_LENGTH,
    progress: bool = True,
) -> InversePosterior:
    """The exact posterior of a two-phase medium on the mesh, with no network.

    Its law is p(a | y) ∝ p(a) N(y; H G(a), σ²I), G the discrete solution operator, p(a) the
    level-set prior. Markov chains by `run_chains`, which refuses to return before they agree.

    Source: Cotter, Roberts, Stuart & White (Statist. Sci. 28, 2013); Iglesias, Lu & Stuart
    (Interfaces and Free Boundaries 18, 2016).

    Args:
        problem: the PDE.
        y: observed values of the solution, shape (num_sensors,).
        sensors: where, in the domain, shape (num_sensors, num_dims).
        noise_sd: of the measurement noise, in the units of `y`; must be given.
        prior: of the medium; `LevelSetGRF()` by default.
        num_samples: draws kept per chain.
        num_chains: at least 2.
        seed: of everything random.
        first_length: steps of the kernel, per chain, in the first run; doubled until R-hat is
            at most 1.01 and the chains' means of a differ by at most 5 %.
        max_length: steps of the kernel, per chain, before giving up.
        progress: show a bar on a terminal.

    Raises:
        ValueError: on bad observations or an argument out of range.
        TypeError: if `prior` is of another kind.
        NotConvergedError: if the chains disagree after `max_length` steps.
    """
    observations = check_observations(problem, y, sensors, noise_sd)
    law = LevelSetGRF() if prior is None else prior
    if not isinstance(law, LevelSetGRF):
        raise TypeError(
            f"`prior` must be a LevelSetGRF of probnet.datasets.fields, whose cosine modes "
            f"the chains move; got {type(law).__name__}."
        )
    chains = run_chains(
        problem,
        observations,
        law,
        num_samples=num_samples,
        num_chains=num_chains,
        seed=seed,
        first_length=first_length,
        max_length=max_length,
        progress=progress,
    )
    u = chains.solutions
    observe = problem.observation_operator(observations.sensors)
    at_sensors = observe(u.double().reshape(-1, *problem.solution_shape))
    shape = chains.misfit.shape
    media = law.sample(_PRIOR_DRAWS, seed=stream_seed(seed, Stream.PREDICTIVE))
    prior_u = problem.solve(problem.coefficients(media)).flatten(1)
    spread = chains.misfit.new_ones(shape)
    draws = Draws(
        draws={"a": chains.inputs.numpy(), "u": u.numpy()},
        sample_stats={
            "lp": (-chains.misfit).numpy(),
            "exact_accept_rate": (spread * chains.accept_rate[:, None]).numpy(),
            "n_exact_solves": np.full(shape, chains.diagnostics["n_exact_solves"]),
        },
        attrs={"method": "pcn", "seed": seed, "num_chains": num_chains},
        groups={
            "prior": {"a": media.float().numpy()[None], "u": prior_u.float().numpy()[None]},
            "log_likelihood": {
                "y": log_likelihood_at(observations, at_sensors).unflatten(0, shape).numpy()
            },
        },
    )
    zeros = torch.zeros_like(observations.y)
    return InversePosterior(
        draws=draws,
        observations=observations,
        problem=problem,
        method="pcn",
        diagnostics={
            **chains.diagnostics,
            "law": "exact discretised posterior under the level-set prior",
        },
        error_mean=zeros,
        error_covariance=torch.diag(zeros),
    )
