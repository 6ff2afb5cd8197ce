"""From a request to its draws: on this machine, in one block of chains or several."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from torch import Tensor

from inference import full_data
from inference.backends import check_options
from inference.bias import BiasCheck, check_bias_check, measure_bias
from inference.binding import bind
from inference.chains import Saving, run_chains
from inference.checkpoint import (
    begin,
    read_meta,
    read_start,
    write_meta,
)
from inference.distributed import check_executor, run_groups
from inference.draws import Draws
from inference.gradients import log_density_and_gradient
from inference.initial import Init, initial_positions
from inference.labels import label_axes, run_attributes
from inference.mode import find_mode
from inference.plan import Plan, Run
from inference.request import Request, check_unchanged, describe_options
from inference.schedules import Cyclical
from inference.targets import Target

_SAME = {torch.float64: 1e-6, torch.float32: 1e-3}


@dataclass(frozen=True)
class Labels:
    """The user's names of axes and coordinates."""

    dims: Mapping[str, list[str]] | None
    coords: Mapping[str, Any] | None


def run(
    target: Any,
    data: Any,
    request: Request,
    *,
    init: Init,
    labels: Labels,
    progress: bool,
    saving: Saving | None = None,
    executor: Any = None,
    bias_check: bool | BiasCheck = False,
    entry: Any,
) -> Draws:
    """Do what `inference.sample` and `inference.resume` promise.

    Args:
        target: a model or a `LogDensity`.
        data: what it takes.
        request: what to do.
        init: starting points.
        labels: of the draws.
        progress: show a bar.
        saving: where to save the run, None for nowhere.
        executor: where chain groups run; None: here.
        bias_check: measure the bias of the finished run.
        entry: the function the user called, for messages.
    """
    plan = request.plan(progress=progress)
    check_executor(executor, plan.until)
    full = request.sampler_name in full_data.METHODS
    sampler = None if full else request.sampler(entry)
    dtype = request.dtype
    if full:
        full_data.check_arguments(request.method, plan, request, saved=saving is not None)
        dtype = torch.float64
    bound = bind(
        target,
        data,
        batch_size=request.batch_size,
        dtype=dtype,
        device=request.device,
        backend=request.backend,
    )
    request = replace(request, backend=bound.backend)
    check_options(bound, chain_method=plan.chain_method, compile=request.compile)
    _check_control_variates(bound, plan)
    check_bias_check(bias_check, plan, bound, full_data=full)
    started = time.perf_counter()
    with pyro.validation_enabled(False):
        positions, anchor = _starts(bound, plan, init, saving)
        if saving is not None:
            _register(saving, bound, request, positions, anchor)
        axes = label_axes(bound, positions[0], labels.dims, labels.coords)
        if executor is not None or (saving is not None and saving.grouped):
            found = run_groups(
                executor, (target, data), request, plan, positions, anchor, saving=saving
            )
        elif sampler is None:
            evaluate = log_density_and_gradient(bound, plan.chain_method)
            options = dict(request.options)
            found = full_data.run(
                request.method, bound, plan, evaluate, positions, options=options
            )
        else:
            found = run_chains(
                bound, sampler, plan, positions, request, anchor=anchor, saving=saving
            )
        bias: dict[str, Any] = {}
        if bias_check and sampler is not None:
            check = bias_check if isinstance(bias_check, BiasCheck) else BiasCheck()
            method = request.sampler_name
            bias["bias"] = measure_bias(bound, sampler, method, plan, found, anchor, check)
    attrs = run_attributes(bound, method=request.method, seed=plan.seed, started=started)
    options = dict(request.options) if sampler is None else describe_options(sampler)
    return Draws(
        draws=found.draws,
        sample_stats=found.sample_stats,
        attrs={**attrs, "options": options, **_describe_run(plan, found), **bias},
        dims=axes,
        coords=dict(labels.coords or {}),
        warmup=found.warmup,
        state=found.state,
        _target=bound,
    )


def _starts(
    target: Target, plan: Plan, init: Init, saving: Saving | None
) -> tuple[Tensor, Tensor | None]:
    """Starting points (chains, dim) and the control variates' anchor (dim,)."""
    if saving is not None and saving.go_on:
        found = read_start(saving.path, target.device)
        return found["positions"], found.get("anchor")
    evaluate = log_density_and_gradient(target, plan.chain_method)
    positions = initial_positions(target, evaluate, init, plan.seed, plan.num_chains)
    anchor = find_mode(target, positions[0]) if plan.control_variates == "mode" else None
    return positions, anchor


def _register(
    saving: Saving,
    target: Target,
    request: Request,
    positions: Tensor,
    anchor: Tensor | None,
) -> None:
    """Note in the run's directory what it is, or check that it is the one saved there."""
    now = _fingerprint(target)
    if saving.go_on:
        saved = dict(read_meta(saving.path)["target"])
        before = saved.pop("log_density")
        check_unchanged(saved, now)
        value = _first_log_density(target, request, positions)
        if abs(value - before) > _SAME.get(target.dtype, 1e-3) * max(1.0, abs(before)):
            raise ValueError(
                "the run cannot go on: the target's log_density is "
                f"{value:.10g} at the first starting point, and was {before:.10g}."
            )
    now["log_density"] = _first_log_density(target, request, positions)
    meta = {
        "request": request.to_json(),
        "target": now,
        "every": saving.every,
        "grouped": saving.grouped,
    }
    if saving.go_on:
        write_meta(saving.path, meta)
    else:
        start = {"positions": positions}
        begin(saving.path, meta, start if anchor is None else {**start, "anchor": anchor})


def _fingerprint(target: Target) -> dict[str, Any]:
    """What tells one target and its data from another, JSON-able."""
    digest = hashlib.sha256()
    for leaf in target.leaves:
        digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())
    return {**target.describe(), "data": digest.hexdigest()}


def _first_log_density(target: Target, request: Request, positions: Tensor) -> float:
    evaluate = log_density_and_gradient(target, request.chain_method)
    return float(evaluate(positions[:1], None)[0][0])


def _check_control_variates(target: Target, plan: Plan) -> None:
    if plan.control_variates is not None and target.batch_size is None:
        raise ValueError(
            "`control_variates` quieten the gradients of minibatches; give `batch_size` too, "
            "or leave them out."
        )


def _describe_run(plan: Plan, found: Run) -> dict[str, Any]:
    """Attributes of a run, JSON-able, with notes on what its diagnostics cannot say."""
    notes = list(found.notes)
    if isinstance(plan.schedule, Cyclical):
        notes.append("cycles visit separate modes: R-hat over them is no convergence test")
    if plan.share_batches:
        notes.append("chains share minibatches: their noise is dependent and R-hat optimistic")
    attrs: dict[str, Any] = {
        "num_warmup": plan.num_warmup,
        "thin": plan.thin,
        "temperature": plan.temperature,
        "chain_method": plan.chain_method,
        "share_batches": plan.share_batches,
        "schedule": describe_options(plan.schedule) | {"name": type(plan.schedule).__name__},
        "interrupted": found.interrupted,
        "frozen_chains": {str(chain): step for chain, step in found.died_at.items()},
        "compiled": found.compiled,
        "notes": notes,
    }
    if plan.control_variates is not None:
        attrs["control_variates"] = plan.control_variates
    if found.reached is not None:
        attrs["until_reached"] = found.reached
    if found.predicted_inflation is not None:
        attrs["predicted_variance_inflation"] = found.predicted_inflation
    return attrs
