"""From a request to its draws: on this machine, in one block of chains or several."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from inference import full_data
from inference.backends import check_options, load
from inference.binding import bind
from inference.blocks import EagerStepper, Stepper
from inference.checkpoint import Checkpoint, read_snapshot
from inference.compiled import CompiledStepper
from inference.draws import Draws
from inference.driver import Driver
from inference.gradients import LogDensityAndGradient, log_density_and_gradient, traceable
from inference.initial import Init, initial_positions
from inference.labels import label_axes, run_attributes
from inference.minibatches import Anchor, Minibatches, controlled
from inference.mode import find_mode
from inference.plan import Plan, Run
from inference.request import Request, check_unchanged, describe_options
from inference.samplers import Sampler
from inference.schedules import Cyclical
from inference.targets import Target

_SAME = {torch.float64: 1e-6, torch.float32: 1e-3}


@dataclass(frozen=True)
class Saving:
    """Where a run is saved.

    Attributes:
        path: the directory.
        every: steps between checkpoints, None for about ten seconds.
        go_on: whether to continue what is there.
    """

    path: Path
    every: int | None
    go_on: bool


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
        entry: the function the user called, for messages.
    """
    plan = request.plan(progress=progress)
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
    started = time.perf_counter()
    with pyro.validation_enabled(False):
        evaluate = log_density_and_gradient(bound, plan.chain_method)
        positions = initial_positions(bound, evaluate, init, plan.seed, plan.num_chains)
        axes = label_axes(bound, positions[0], labels.dims, labels.coords)
        anchor = _find_anchor(bound, plan, positions)
        if executor is not None:
            from inference.distributed import run_groups

            found = run_groups(
                executor, (target, data), request, plan, positions, anchor, saving=saving
            )
        elif sampler is None:
            options = dict(request.options)
            found = full_data.run(
                request.method, bound, plan, evaluate, positions, options=options
            )
        else:
            found = run_chains(
                bound, sampler, plan, positions, request, anchor=anchor, saving=saving
            )
    attrs = run_attributes(bound, method=request.method, seed=plan.seed, started=started)
    options = dict(request.options) if sampler is None else describe_options(sampler)
    return Draws(
        draws=found.draws,
        sample_stats=found.sample_stats,
        attrs={**attrs, "options": options, **_describe_run(plan, found)},
        dims=axes,
        coords=dict(labels.coords or {}),
        warmup=found.warmup,
        state=found.state,
        _target=bound,
    )


def run_chains(
    target: Target,
    sampler: Sampler,
    plan: Plan,
    positions: Tensor,
    request: Request,
    *,
    anchor: Tensor | None = None,
    saving: Saving | None = None,
) -> Run:
    """A block of chains from its starting points, or from where its checkpoint stands.

    Args:
        target: the log density.
        sampler: what advances the chains.
        plan: how long, and which chains.
        positions: starting points (chains, dim).
        request: how to evaluate and compile.
        anchor: of the control variates, shape (dim,).
        saving: where to save.
    """
    plain = log_density_and_gradient(target, plan.chain_method)
    evaluate = plain if plan.control_variates is None else controlled(plain)
    minibatches = Minibatches(target, plan.seed, plan.chains, shared=plan.share_batches)
    if anchor is not None:
        minibatches.anchor = _anchor(plain, anchor.expand_as(positions))
    stepper = _stepper(target, sampler, plan, evaluate, minibatches, request.compile)
    checkpoint, snapshot = None, None
    if saving is not None:
        fingerprint = _fingerprint(target, plain, positions)
        meta = {"request": request.to_json(), "target": fingerprint}
        found = None
        if saving.go_on:
            found = read_snapshot(saving.path, target.device)
        parts, stored = (0, None) if found is None else found[1:]
        snapshot = None if found is None else found[0]
        checkpoint = Checkpoint(
            saving.path, saving.every, meta, parts=parts, stored=stored, fresh=not saving.go_on
        )
    driver = Driver(
        target, sampler, plan, evaluate, minibatches, stepper=stepper, checkpoint=checkpoint
    )
    finished = driver.run(positions, snapshot)
    return replace(finished, compiled=stepper.compiled)


def check_target(saved: Mapping[str, Any], target: Target, positions: Tensor) -> None:
    """Raise `ValueError` unless the target is the one a run was saved with."""
    evaluate = log_density_and_gradient(target, "vectorized")
    now = _fingerprint(target, evaluate, positions)
    was, value = dict(saved), now.pop("log_density")
    before = was.pop("log_density")
    check_unchanged(was, now)
    if abs(value - before) > _SAME.get(target.dtype, 1e-3) * max(1.0, abs(before)):
        raise ValueError(
            "the run cannot go on: the target's log_density is "
            f"{value:.10g} at the first starting point, and was {before:.10g}."
        )


def _fingerprint(
    target: Target, evaluate: LogDensityAndGradient, positions: Tensor
) -> dict[str, Any]:
    """What tells one target from another, JSON-able."""
    digest = hashlib.sha256()
    for leaf in target.leaves:
        digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())
    value, _ = evaluate(positions[:1], None)
    return {**target.describe(), "data": digest.hexdigest(), "log_density": float(value[0])}


def _stepper(
    target: Target,
    sampler: Sampler,
    plan: Plan,
    evaluate: LogDensityAndGradient,
    minibatches: Minibatches,
    mode: bool | str,
) -> Stepper:
    controls = plan.control_variates is not None
    if target.backend == "jax":
        kind = load("stepper").ScanStepper
        return kind(target, sampler, minibatches, control_variates=controls)
    eager = EagerStepper(sampler, evaluate, minibatches)
    if mode is False or plan.chain_method == "sequential":
        return eager
    graph = traceable(target)
    return CompiledStepper(
        sampler,
        controlled(graph) if controls else graph,
        minibatches,
        eager,
        mode=mode,
        steps={True: plan.num_warmup, False: plan.num_steps - plan.num_warmup},
    )


def _check_control_variates(target: Target, plan: Plan) -> None:
    if plan.control_variates is not None and target.batch_size is None:
        raise ValueError(
            "`control_variates` quieten the gradients of minibatches; give `batch_size` too, "
            "or leave them out."
        )


def _find_anchor(target: Target, plan: Plan, positions: Tensor) -> Tensor | None:
    """The mode, searched from the first chain's start."""
    return find_mode(target, positions[0]) if plan.control_variates == "mode" else None


def _anchor(evaluate: LogDensityAndGradient, positions: Tensor) -> Anchor:
    _, gradient = evaluate(positions, None)
    return Anchor(positions, gradient)


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
