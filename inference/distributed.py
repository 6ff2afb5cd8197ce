"""Groups of chains as tasks of an executor, on this machine or others."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from inference import full_data
from inference.binding import bind
from inference.chains import Saving, run_chains
from inference.errors import held_warnings, warn
from inference.gradients import log_density_and_gradient
from inference.monitor import all_diverged, warn_frozen
from inference.plan import Plan, Run
from inference.request import Request
from inference.stopping import Until

_GROUPS = 8  # a constant: the draws must not depend on how many workers there are


@dataclass(frozen=True)
class _Task:
    """What a worker needs to run a group of chains."""

    target: Any
    data: Any
    request: Request
    plan: Plan
    positions: np.ndarray
    anchor: np.ndarray | None
    saving: Saving | None


def check_executor(executor: Any, until: Until | None) -> None:
    """Raise unless tasks can be submitted, and groups of chains can tell when they are done.

    Raises:
        TypeError: if `executor` has no `submit`.
        ValueError: if the goal is one of all chains together.
    """
    if executor is None:
        return
    if until is not None and (until.ess is not None or until.rhat is not None):
        raise ValueError(
            "`until` looks at the ESS and R-hat of all chains at once, and with an `executor` "
            "they run apart. Give it seconds only, or leave it out."
        )
    if not hasattr(executor, "submit"):
        raise TypeError(
            "`executor` must be a concurrent.futures.Executor, such as Dask's "
            f"client.get_executor(); got {type(executor).__name__}."
        )


def run_groups(
    executor: Executor | None,
    model: tuple[Any, Any],
    request: Request,
    plan: Plan,
    positions: Tensor,
    anchor: Tensor | None,
    *,
    saving: Saving | None,
) -> Run:
    """Run groups of chains as tasks, and put their draws together.

    A task that is run again, because its worker was lost, goes on from its own checkpoint.

    Args:
        executor: any `concurrent.futures.Executor` whose tasks may hold the target; None: the
            groups run here, one after another.
        model: the target and its data, as the user gave them.
        request: what to do.
        plan: of all chains.
        positions: starting points (chains, dim).
        anchor: of the control variates, shape (dim,).
        saving: where to save; every group has a directory of its own in it.
    """
    pooled = request.method == "hmc"  # its chains adapt together
    count = 1 if pooled else min(_GROUPS, plan.num_chains)
    bounds = np.linspace(0, plan.num_chains, count + 1, dtype=int).tolist()
    tasks = [
        _Task(
            *model,
            request,
            replace(
                plan,
                num_chains=stop - start,
                first_chain=start,
                progress=False,
                is_group=count > 1,
            ),
            positions[start:stop].numpy(force=True),
            None if anchor is None else anchor.numpy(force=True),
            _own(saving, start),
        )
        for start, stop in pairwise(bounds)
    ]
    if executor is None:
        return _together([_run_task(task) for task in tasks], bounds)
    futures = [executor.submit(_run_task, task) for task in tasks]
    try:
        return _together([future.result() for future in futures], bounds)
    except BaseException:
        for future in futures:
            future.cancel()
        raise


def _run_task(task: _Task) -> tuple[Run, list[str]]:
    """What a worker does; also what it would have warned of."""
    with held_warnings() as messages:
        return _run_group(task), messages


def _run_group(task: _Task) -> Run:
    request, plan = task.request, task.plan
    full = request.sampler_name in full_data.METHODS
    dtype = torch.float64 if full else request.dtype
    target = bind(
        task.target,
        task.data,
        batch_size=request.batch_size,
        dtype=dtype,
        device=request.device,
        backend=request.backend,
    )
    positions = torch.from_numpy(np.array(task.positions)).to(target.device)
    with pyro.validation_enabled(False):
        if full:
            evaluate = log_density_and_gradient(target, plan.chain_method)
            options = dict(request.options)
            return full_data.run(
                request.method, target, plan, evaluate, positions, options=options
            )
        anchor = None if task.anchor is None else torch.from_numpy(np.array(task.anchor))
        return run_chains(
            target,
            request.sampler(run_groups),
            plan,
            positions,
            request,
            anchor=anchor if anchor is None else anchor.to(target.device),
            saving=task.saving,
        )


def _own(saving: Saving | None, start: int) -> Saving | None:
    """A group's own directory, which it continues if it was there before."""
    if saving is None:
        return None
    return replace(saving, path=saving.path / f"chains-{start:04d}", go_on=True)


def _together(found: list[tuple[Run, list[str]]], bounds: list[int]) -> Run:
    """One run of all chains.

    Raises:
        AllChainsDivergedError: if no chain is left.
    """
    runs = [run for run, _ in found]
    died_at = {
        start + chain: step
        for start, run in zip(bounds[:-1], runs, strict=True)
        for chain, step in run.died_at.items()
    }
    if len(died_at) == bounds[-1]:
        raise all_diverged(died_at, float(runs[0].sample_stats["step_size"].flat[0]))
    if died_at and len(runs) > 1:
        warn_frozen(died_at)
    for message in dict.fromkeys(message for _, messages in found for message in messages):
        warn(message)
    return Run(
        draws=_join([run.draws for run in runs]),
        sample_stats=_join([run.sample_stats for run in runs]),
        warmup=_join([run.warmup for run in runs]),
        state={n: torch.cat([run.state[n] for run in runs]) for n in runs[0].state}
        if len(runs) > 1
        else runs[0].state,
        interrupted=any(run.interrupted for run in runs),
        died_at=died_at,
        predicted_inflation=_mean_inflation(runs, bounds),
        reached=None if runs[0].reached is None else all(run.reached for run in runs),
        compiled=any(run.compiled for run in runs),
        notes=runs[0].notes,
    )


def _join(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays (chain, draw, ...) of all groups, cut to what every group has."""
    count = min((array.shape[1] for part in parts for array in part.values()), default=0)
    return {n: np.concatenate([p[n][:, :count] for p in parts]) for n in parts[0]}


def _mean_inflation(runs: list[Run], bounds: list[int]) -> dict[str, float] | None:
    """The groups' predictions, weighted by their chains that are alive."""
    alive = np.diff(bounds) - [len(run.died_at) for run in runs]
    found = [
        (run.predicted_inflation, count)
        for run, count in zip(runs, alive.tolist(), strict=True)
        if run.predicted_inflation is not None and count
    ]
    if not found:
        return None
    weights = [count for _, count in found]
    return {
        name: float(np.average([prediction[name] for prediction, _ in found], weights=weights))
        for name in found[0][0]
    }
