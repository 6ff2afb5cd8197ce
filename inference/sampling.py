"""`inference.sample`: Markov chains of any method on any target."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from inspect import signature
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from inference import full_data
from inference._checks import check_choice, check_options
from inference.binding import bind
from inference.draws import Draws
from inference.driver import Driver
from inference.gradients import log_density_and_gradient
from inference.initial import Init, initial_positions
from inference.labels import label_axes, run_attributes
from inference.log_density import LogDensity
from inference.plan import Plan, Run
from inference.samplers import SGHMC, SGLD, SGNHT, AdaptiveSGHMC, Sampler
from inference.schedules import Constant, Cyclical, Schedule

SAMPLERS: dict[str, type[Any]] = {
    "sgld": SGLD,
    "sghmc": SGHMC,
    "sghmc_adaptive": AdaptiveSGHMC,
    "sgnht": SGNHT,
}
CYCLICAL = {"csgld": "sgld", "csghmc": "sghmc"}
METHODS = (*SAMPLERS, *CYCLICAL, *full_data.METHODS)

_DEFAULT_WARMUP = 1000
_ADAPTIVE_WARMUP = 3000


def sample(
    target: LogDensity | Callable[..., Any],
    data: Any = None,
    *,
    method: str = "sghmc",
    num_chains: int = 4,
    num_warmup: int | None = None,
    num_samples: int = 1000,
    thin: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    init: Init = None,
    temperature: float = 1.0,
    schedule: Schedule | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    chain_method: str = "vectorized",
    share_batches: bool = False,
    keep_warmup: bool = False,
    chunk_size: int | None = None,
    progress: bool = True,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, list[str]] | None = None,
    **method_options: Any,
) -> Draws:
    """Draw from the posterior of a Pyro model or a `LogDensity`.

    Args:
        target: a Pyro model, called as `model(*data)`, or a `LogDensity`.
        data: what the target takes: an array, a tuple of them, or a dict of them. Floating
            arrays are converted to the target's dtype.
        method: `"sghmc"`, `"sghmc_adaptive"`, `"sgld"`, `"sgnht"`; `"csghmc"` and `"csgld"`
            run them on a `Cyclical` schedule; `"hmc"` and `"nuts"` (Pyro's) run in float64.
        num_chains: chains, all advanced at once, except by `"nuts"`.
        num_warmup: steps before the first draw can be kept; by default 1000, 3000 for
            `"sghmc_adaptive"`, 0 for cyclical methods.
        num_samples: draws kept per chain; in all `num_warmup + thin * num_samples` steps.
        thin: steps per kept draw.
        batch_size: rows per gradient, drawn without replacement within an epoch, separately
            for every chain; None: all rows.
        seed: of everything random; chain c does not depend on how many chains there are, save
            by what `"hmc"` learns from all chains in warm-up.
        init: starting points, see `inference.initial.initial_positions`.
        temperature: T; the target is the posterior to the power 1/T.
        schedule: of the step size, from `inference.schedules`; constant by default.
        dtype: of parameters and data; by default that of `params`, or of the data.
        device: where to run.
        chain_method: `"vectorized"`, or `"sequential"` for models that branch on values.
        share_batches: every chain sees the same minibatches: cheaper, but their noise is then
            common, and R-hat optimistic.
        keep_warmup: also return every `thin`-th warm-up position.
        chunk_size: steps between health checks and copies to the host; does not change draws.
        progress: show a progress bar on a terminal.
        coords: coordinates by dimension.
        dims: names of the axes of each variable, by default Pyro's plates.
        method_options: the sampler's own, such as `step_size` and `friction`; see
            `inference.samplers`, `inference.hmc`, `inference.nuts` and, for cyclical methods,
            `Cyclical`.

    Returns:
        The draws.

    Raises:
        ValueError: on an argument out of range, non-finite data, rows that do not match.
        TypeError: on a discrete latent site, integer parameters or an unknown option.
        InitError: if no starting point has a finite log density.
        AllChainsDivergedError: if every chain meets a non-finite value.
    """
    check_choice("method", method, METHODS)
    name = CYCLICAL.get(method, method)
    if method in CYCLICAL:
        schedule, method_options = _cyclical(method, schedule, method_options)
    if num_warmup is None:
        default = _ADAPTIVE_WARMUP if name == "sghmc_adaptive" else _DEFAULT_WARMUP
        num_warmup = 0 if isinstance(schedule, Cyclical) else default
    plan = Plan(
        num_chains=num_chains,
        num_warmup=num_warmup,
        num_samples=num_samples,
        thin=thin,
        seed=seed,
        temperature=temperature,
        schedule=_check_schedule(schedule),
        chain_method=chain_method,
        share_batches=share_batches,
        keep_warmup=keep_warmup,
        chunk_size=chunk_size,
        progress=progress,
    )
    if name in full_data.METHODS:
        full_data.check_arguments(name, plan, batch_size, dtype, method_options)
        dtype = torch.float64
        sampler = None
    else:
        sampler = _build_sampler(name, method_options)
    bound = bind(target, data, batch_size=batch_size, dtype=dtype, device=device)
    started = time.perf_counter()
    with pyro.validation_enabled(False):
        evaluate = log_density_and_gradient(bound, chain_method)
        positions = initial_positions(bound, evaluate, init, plan.seed, plan.num_chains)
        axes = label_axes(bound, positions[0], dims, coords)
        if sampler is None:
            run = full_data.run(name, bound, plan, evaluate, positions, options=method_options)
            options = dict(method_options)
        else:
            run = Driver(bound, sampler, plan, evaluate).run(positions)
            options = _describe_options(sampler)
    attrs = run_attributes(bound, method=method, seed=plan.seed, started=started)
    return Draws(
        draws=run.draws,
        sample_stats=run.sample_stats,
        attrs={**attrs, "options": options, **_describe_run(plan, run)},
        dims=axes,
        coords=dict(coords or {}),
        warmup=run.warmup,
        state=run.state,
        _target=bound,
    )


def _build_sampler(name: str, options: Mapping[str, Any]) -> Sampler:
    kind = SAMPLERS[name]
    known = [field.name for field in fields(kind)]
    check_options(f"method {name!r}", options, known, also=signature(sample).parameters)
    return kind(**options)


def _check_schedule(schedule: Any) -> Schedule:
    if schedule is None:
        return Constant()
    if isinstance(schedule, type) or not hasattr(schedule, "phase"):
        raise TypeError(
            "`schedule` must be an instance of a class in inference.schedules, such as "
            f"Polynomial(); got {schedule!r}."
        )
    return schedule


def _cyclical(
    method: str, schedule: Schedule | None, options: dict[str, Any]
) -> tuple[Schedule, dict[str, Any]]:
    """The schedule of a cyclical method, from its options, and the sampler's options."""
    if schedule is not None:
        raise ValueError(f"method {method!r} brings its own schedule; leave `schedule` out.")
    own = [field.name for field in fields(Cyclical)]
    given = {name: options[name] for name in own if name in options}
    return Cyclical(**given), {n: v for n, v in options.items() if n not in own}


def _describe_run(plan: Plan, run: Run) -> dict[str, Any]:
    """Attributes of a run, JSON-able, with notes on what its diagnostics cannot say."""
    notes = list(run.notes)
    if isinstance(plan.schedule, Cyclical):
        notes.append("cycles visit separate modes: R-hat over them is no convergence test")
    if plan.share_batches:
        notes.append("chains share minibatches: their noise is dependent and R-hat optimistic")
    found: dict[str, Any] = {
        "num_warmup": plan.num_warmup,
        "thin": plan.thin,
        "temperature": plan.temperature,
        "chain_method": plan.chain_method,
        "share_batches": plan.share_batches,
        "schedule": _describe_options(plan.schedule) | {"name": type(plan.schedule).__name__},
        "interrupted": run.interrupted,
        "frozen_chains": {str(chain): step for chain, step in run.died_at.items()},
        "notes": notes,
    }
    if run.predicted_inflation is not None:
        found["predicted_variance_inflation"] = run.predicted_inflation
    return found


def _describe_options(options: Any) -> dict[str, Any]:
    """Options as JSON-able values; a schedule of the user's own may have none."""
    if not hasattr(options, "__dataclass_fields__"):
        return {}
    return {
        name: value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
        for name, value in asdict(options).items()
    }
