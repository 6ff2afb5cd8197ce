"""Methods that use all the data in float64, HMC and NUTS: what they take, and which runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inference import hmc, nuts
from inference._checks import check_fraction, check_integer, check_options, check_positive
from inference.backends import load
from inference.gradients import LogDensityAndGradient
from inference.plan import Run
from inference.schedules import Constant

if TYPE_CHECKING:
    from inference.plan import Plan
    from inference.request import Request
    from inference.targets import Target

METHODS = ("hmc", "nuts")

_OPTIONS = {
    "hmc": tuple(field.name for field in fields(hmc.HMC)),
    "nuts": (
        "step_size",
        "target_accept_prob",
        "full_mass",
        "adapt_step_size",
        "adapt_mass_matrix",
        "max_tree_depth",
    ),
}


def check_arguments(method: str, plan: Plan, request: Request, *, saved: bool) -> None:
    """Refuse what full-data float64 sampling cannot honour.

    Args:
        method: which.
        plan: how long to run and what to keep.
        request: what was asked for.
        saved: whether a checkpoint was asked for.

    Raises:
        TypeError: on an option the method does not take.
        ValueError: on minibatches, another dtype, a schedule, temperature 0, a goal, a
            checkpoint, or an option out of range.
    """
    options = request.options
    check_options(f"method {method!r}", options, _OPTIONS[method], also=vars(plan))
    refused = {
        "batch_size": request.batch_size is not None,
        "schedule": not isinstance(plan.schedule, Constant),
        "share_batches": plan.share_batches,
        "keep_warmup": plan.keep_warmup,
        "chunk_size": plan.chunk_size is not None,
        "control_variates": plan.control_variates is not None,
        "until": plan.until is not None,
        "checkpoint": saved,
        "compile": request.compile is True,
    }
    for name, given in refused.items():
        if given:
            raise ValueError(f"`{name}` does not apply to method {method!r}; leave it out.")
    if request.dtype not in (None, torch.float64):
        raise ValueError(
            f"`dtype` must be torch.float64 for method {method!r}; got {request.dtype}."
        )
    check_positive("temperature", plan.temperature)
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("step_size", "trajectory_length"):
        if name in given:
            check_positive(name, given[name])
    for name in ("num_steps", "max_tree_depth"):
        if name in given:
            check_integer(name, given[name], 1)
    if "target_accept_prob" in given:
        check_fraction("target_accept_prob", given["target_accept_prob"], closed=False)
    _check_lengths(given)


def _check_lengths(options: Mapping[str, Any]) -> None:
    """Raise if the length of a trajectory is given twice, or given and to be learnt."""
    if "num_steps" not in options:
        return
    if "trajectory_length" in options:
        raise ValueError("give `num_steps` or `trajectory_length`, not both.")
    if options.get("adapt_trajectory_length"):
        raise ValueError(
            "`adapt_trajectory_length` does not go with `num_steps`, which fixes the length; "
            "give `trajectory_length`, where adaptation starts, or neither."
        )


def run(
    method: str,
    target: Target,
    plan: Plan,
    evaluate: LogDensityAndGradient,
    positions: Tensor,
    *,
    options: Mapping[str, Any],
) -> Run:
    """Sample by `"hmc"` or `"nuts"`.

    Args:
        method: which.
        target: bound in float64.
        plan: lengths, thinning, seed and temperature.
        evaluate: log density and gradient of all chains.
        positions: starting points, shape (chains, dim).
        options: as `check_arguments` found them.
    """
    if method == "nuts" and target.backend == "jax":
        return load("kernels").run(target, plan, positions, options=options)
    if method == "hmc":
        return hmc.run(target, plan, evaluate, positions, options=hmc.HMC(**options))
    return nuts.run(target, plan, evaluate, positions, options=options)
