"""One block of chains: the parts of a run put together, and run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from inference.backends import load
from inference.blocks import EagerStepper, Stepper
from inference.checkpoint import Checkpoint, read_snapshot
from inference.compiled import CompiledStepper
from inference.driver import Driver
from inference.gradients import LogDensityAndGradient, log_density_and_gradient, traceable
from inference.minibatches import Anchor, Minibatches, controlled
from inference.plan import Plan, Run
from inference.request import Request
from inference.samplers import Sampler
from inference.targets import Target


@dataclass(frozen=True)
class Saving:
    """Where a run is saved.

    Attributes:
        path: the directory.
        every: steps between checkpoints, None for about ten seconds.
        go_on: whether to continue what is there.
        grouped: whether groups of chains have directories of their own in it.
    """

    path: Path
    every: int | None
    go_on: bool
    grouped: bool


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
    minibatches = Minibatches(
        target,
        plan.seed,
        plan.chains,
        shared=plan.share_batches,
        independent=sampler.corrects_noise,
    )
    if anchor is not None:
        minibatches.anchor = _anchor(plain, anchor.expand_as(positions))
    stepper = _stepper(target, sampler, plan, evaluate, minibatches, request.compile)
    checkpoint, snapshot = None, None
    if saving is not None:
        found = read_snapshot(saving.path, target.device) if saving.go_on else None
        snapshot, parts, stored = found or (None, 0, None)
        checkpoint = Checkpoint(saving.path, saving.every, parts=parts, stored=stored)
    driver = Driver(
        target, sampler, plan, evaluate, minibatches, stepper=stepper, checkpoint=checkpoint
    )
    finished = driver.run(positions, snapshot)
    return replace(finished, compiled=stepper.compiled)


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


def _anchor(evaluate: LogDensityAndGradient, positions: Tensor) -> Anchor:
    _, gradient = evaluate(positions, None)
    return Anchor(positions, gradient)
