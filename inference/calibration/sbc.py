"""Simulation-based calibration: is the truth just another draw from its posterior?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import torch
from tqdm.auto import tqdm

from inference._checks import check_integer
from inference.calibration.independence import check_independence
from inference.calibration.joint import (
    Joint,
    PriorSample,
    Simulate,
    joint_model,
)
from inference.calibration.log_joint import Arrays, with_log_joint
from inference.calibration.methods import build_sampler, check_method
from inference.calibration.replicated import ReplicatedTarget, run
from inference.calibration.result import Calibration
from inference.calibration.values import to_arrays
from inference.data import Leaves
from inference.draws import Draws
from inference.gradients import log_density_and_gradient
from inference.labels import plate_axes
from inference.log_density import LogDensity
from inference.plan import Plan
from inference.request import METHODS, SAMPLERS
from inference.rng import Stream, scoped_seed, stream_seed
from inference.samplers import Sampler
from inference.sampling import sample
from inference.schedules import Constant
from inference.targets import Named, Target

PosteriorSampler = Callable[[Any, int], Draws | Mapping[str, Any]]
"""`sampler(data, seed)`: draws for one data set, `Draws` or arrays `(draw, *shape)` by name."""


def sbc(
    target: LogDensity | Callable[..., Any],
    data: Any = None,
    *,
    prior_sample: PriorSample | None = None,
    simulate: Simulate | None = None,
    method: str | PosteriorSampler = "sghmc",
    num_replications: int = 200,
    num_samples: int = 99,
    num_chains: int = 1,
    num_warmup: int = 1000,
    thin: int = 10,
    batch_size: int | None = None,
    temperature: float = 1.0,
    dtype: torch.dtype | None = None,
    chain_method: str = "vectorized",
    seed: int = 0,
    progress: bool = True,
    **method_options: Any,
) -> Calibration:
    """Rank true parameters among draws from the posteriors of the data that they made.

    For each replication: parameters from the prior, data given them, `num_samples` draws from
    the posterior. If the sampler is right every rank 0, ..., `num_samples` is equally likely.
    Beside the parameters the log joint density, `"lp"`, is ranked: it depends on the data, so
    a sampler that ignores them is caught too.

    The stochastic-gradient methods run on all data sets at once; others one data set after
    another.

    Source: Talts, Betancourt, Simpson, Vehtari & Gelman (2018); Modrák et al. (Bayesian
    Analysis, 2023) for quantities that depend on the data.

    Args:
        target: a Pyro model or a `LogDensity`.
        data: for a Pyro model: arrays of the right shapes; those observed are replaced by
            simulated ones, the others (covariates) are used as they are.
        prior_sample: for a `LogDensity`: `prior_sample(num)` gives parameters from the prior,
            each with a leading axis of `num`. Its random numbers may come from the global
            generators of torch and NumPy, which are seeded inside and restored.
        simulate: for a `LogDensity`: `simulate(params)` gives data for parameters with a
            leading axis, every array with that axis first.
        method: as for `inference.sample`, or any sampler as a function of one data set and a
            seed, which returns `Draws` or a dict of arrays `(draw, *shape)`.
        num_replications: R, at least 20.
        num_samples: draws for each data set, all chains together; with 99 ranks fill the bins
            of the tests evenly. A sampler of your own decides for itself.
        num_chains: chains for each data set; divides `num_samples`.
        num_warmup: steps before the first draw.
        thin: steps per draw; the draws should be nearly independent.
        batch_size: rows per gradient; None: all rows.
        temperature: T; anything but 1 is not the posterior, and must fail.
        dtype: of parameters and data.
        chain_method: `"sequential"` for models that branch on values.
        seed: of everything random.
        progress: show a progress bar on a terminal.
        method_options: of the method, such as `step_size`.

    Raises:
        ValueError: on arguments out of range, a model that cannot simulate, or draws that are
            not finite.
        TypeError: on an unknown option.

    Warns:
        InferenceWarning: if the effective sample size is below half of `num_samples`: ranks
            among dependent draws are not uniform even for an exact sampler.
    """
    check_integer("num_replications", num_replications, 20)
    options: dict[str, Any] = {
        "num_chains": check_integer("num_chains", num_chains, 1),
        "num_warmup": num_warmup,
        "num_samples": check_integer("num_samples", num_samples, 1) // num_chains,
        "thin": thin,
        "temperature": temperature,
        "chain_method": chain_method,
    }
    plan = _plan(options, num_replications, seed, progress=progress)
    if num_samples % num_chains:
        raise ValueError(
            f"`num_samples` must be a multiple of `num_chains`, {num_chains}; got "
            f"{num_samples}."
        )
    given = bool(method_options) or batch_size is not None or temperature != 1
    check_method(method, METHODS, options=given)
    sampler = None
    if isinstance(method, str) and method in SAMPLERS:
        sampler = build_sampler(method, method_options)
    with pyro.validation_enabled(False):
        with scoped_seed(stream_seed(seed, Stream.PYRO)):
            joint = joint_model(target, data, prior_sample, simulate, dtype)
            truth = joint.prior(num_replications)
            leaves = joint.simulate(truth)
        if sampler is not None:
            draws = _together(joint.bind(batch_size), leaves, sampler, plan, num_chains)
        else:
            options |= {"method": method, "batch_size": batch_size, "dtype": dtype}
            own = (
                _named(target, options | method_options) if isinstance(method, str) else method
            )
            draws = _one_by_one(own, joint, leaves, truth, seed, progress=progress)
        _check_finite(draws)
        prior, draws = with_log_joint(
            joint.target, to_arrays(truth), draws, leaves, chain_method
        )
    check_independence(draws, thin)
    return Calibration(
        ranks={n: (draws[n] < v[:, None, None]).sum((1, 2)) for n, v in prior.items()},
        prior=prior,
        posterior=draws,
        observed_data=to_arrays(joint.observed(leaves)),
        dims=_axes(joint.target, truth),
        attrs={"method": method if isinstance(method, str) else "callable", "seed": seed},
    )


def _plan(options: Mapping[str, Any], replications: int, seed: int, *, progress: bool) -> Plan:
    """The plan of a run in which every replication has its chains."""
    everyone = {**options, "num_chains": options["num_chains"] * replications}
    return Plan(
        **everyone,
        seed=seed,
        schedule=Constant(),
        share_batches=False,
        keep_warmup=False,
        chunk_size=None,
        progress=progress,
    )


def _together(
    base: Target, leaves: Leaves, sampler: Sampler, plan: Plan, num_chains: int
) -> Arrays:
    """Draws (replication, chain, draw, *shape), all data sets in one run."""
    repeated = tuple(x.repeat_interleave(num_chains, 0) for x in leaves)
    gradient = log_density_and_gradient(base, plan.chain_method)
    found = run(ReplicatedTarget(base, repeated, gradient), sampler, plan)
    return {n: a.reshape(-1, num_chains, *a.shape[1:]) for n, a in found.items()}


def _named(target: Any, options: Mapping[str, Any]) -> PosteriorSampler:
    def sampler(data: Any, seed: int) -> Draws:
        return sample(target, data, seed=seed, progress=False, **options)

    return sampler


def _one_by_one(
    sampler: PosteriorSampler,
    joint: Joint,
    leaves: Leaves,
    truth: Named,
    seed: int,
    *,
    progress: bool,
) -> Arrays:
    """Draws (replication, chain, draw, *shape), one data set after another."""
    found: list[Arrays] = []
    seeds = [stream_seed(seed, Stream.INIT, i) for i in range(len(leaves[0]))]
    for i in tqdm(range(len(leaves[0])), disable=None if progress else True):
        drawn = sampler(joint.structure(tuple(x[i] for x in leaves)), seeds[i])
        arrays = drawn.draws if isinstance(drawn, Draws) else drawn
        lead = 2 if isinstance(drawn, Draws) else 1
        one: Arrays = {}
        for name, value in truth.items():
            array = np.asarray(arrays[name]) if name in arrays else None
            if array is None or array.shape[lead:] != value.shape[1:]:
                raise ValueError(
                    f"`method` must return draws of {name!r} of shape (draw, "
                    f"*{tuple(value.shape[1:])}); got "
                    f"{'nothing' if array is None else array.shape}."
                )
            one[name] = array if lead == 2 else array[None]
        found.append(one)
    if len({one[n].shape[:2] for one in found for n in one}) > 1:
        raise ValueError("`method` must return the same number of draws every time.")
    return {name: np.stack([one[name] for one in found]) for name in truth}


def _check_finite(draws: Arrays) -> None:
    bad = {i for a in draws.values() for i in np.unique(np.nonzero(~np.isfinite(a))[0])}
    if bad:
        raise ValueError(
            f"the draws of {len(bad)} replications are not finite (first: {min(bad)}), so "
            "nothing can be ranked among them. Reduce `step_size`, or warm up longer."
        )


def _axes(target: Target, truth: Named) -> dict[str, list[str]]:
    return {n: plate_axes(target, n, v.ndim - 1, truth) for n, v in truth.items()}
