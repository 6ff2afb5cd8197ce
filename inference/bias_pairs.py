"""Runs at two step sizes under one Brownian path, and what their difference says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference import linear_theory
from inference.bias_verdict import Estimate
from inference.gradient_noise import gradient_variance
from inference.gradients import LogDensityAndGradient
from inference.minibatches import Anchor, Minibatches, controlled
from inference.plan import Plan
from inference.rng import NormalStream, Stream
from inference.samplers import SGHMC, SGLD, SGNHT, AdaptiveSGHMC, Sampler, Settings, take_step
from inference.targets import Target
from inference.tuning import quadratic_step

_BURN_IN = 0.25
_FEWEST_UNITS = 4
_NO_BIAS = 1e-6  # a prediction of less is rounding
_OFFSET = 1000  # of the batches that measure the gradient's noise


class Frame(NamedTuple):
    """Directions, orthonormal columns of `basis` (dim, dim), and the curvature along each."""

    center: Tensor
    basis: Tensor
    curvature: np.ndarray


class PairedRuns:
    """A sampler's target, gradient and minibatches, and the paired runs.

    Args:
        target: what was sampled.
        sampler: by what.
        plan: of the run.
        evaluate: log density and gradient, without control variates.
        anchor: of control variates at the mode, shape (dim,).
        num_chains: even; the second half has the opposite noise of the first.
        num_steps: at ε; twice as many at ε/2.

    Attributes:
        evaluate: with the control variates of the run.
        settings: of its steps.
    """

    def __init__(
        self,
        target: Target,
        sampler: Sampler,
        plan: Plan,
        evaluate: LogDensityAndGradient,
        *,
        anchor: Tensor | None,
        num_chains: int,
        num_steps: int,
    ) -> None:
        self.target, self.sampler, self.plan = target, sampler, plan
        self.plain = evaluate
        self.evaluate = evaluate if plan.control_variates is None else controlled(evaluate)
        self.settings = Settings(sampler.step_size, plan.temperature, warmup=False)
        self.num_chains, self.num_steps = num_chains, num_steps
        self._mode = anchor

    def minibatches(self, purpose: Stream, count: int) -> Minibatches:
        """Batches of the run's kind for `count` chains, from a stream of their own."""
        return Minibatches(
            self.target,
            self.plan.seed,
            range(count),
            purpose=purpose,
            independent=self.sampler.corrects_noise,
        )

    def anchor(self, positions: Tensor) -> Anchor | None:
        """Of the control variates: the mode, or where the chains are now."""
        if self.plan.control_variates is None:
            return None
        where = positions if self._mode is None else self._mode.expand_as(positions)
        return Anchor(where.clone(), self.plain(where, None)[1])

    def measure(
        self,
        state: Mapping[str, Tensor],
        chains: Sequence[int],
        positions: Tensor,
        frame: Frame,
        factor: np.ndarray,
    ) -> tuple[Estimate | None, Estimate | None]:
        """The bias at ε of variances, relative, and of means, in standard deviations.

        Args:
            state: the last one of the run's chains, for what the sampler has learnt.
            chains: numbers of those to go on with.
            positions: draws to start from, shape (len(chains), draws, dim).
            frame: the directions.
            factor: of the difference between ε and ε/2, by direction or one for all.

        Returns:
            One unit per pair of chains; None where too few stayed finite.
        """
        starts, numbers = self._starts(chains, positions)
        half = self.num_chains // 2
        noise = NormalStream(
            self.plan.seed,
            Stream.BIAS,
            range(half),
            self.target.layout.dim,
            dtype=self.target.dtype,
            device=self.target.device,
        )
        coarse = _Arm(self, self.sampler, self.settings, Stream.BIAS_BATCH)
        halved = self.settings._replace(step_size=self.settings.step_size / 2)
        fine = _Arm(self, _half(self.sampler), halved, Stream.BIAS_BATCH_HALF)
        momenta = _opposite(noise.next())
        for arm in (coarse, fine):
            arm.start({n: v[numbers] for n, v in state.items()}, starts, momenta)
        decay = fine.decay
        sums = [torch.zeros_like(starts, dtype=torch.float64) for _ in range(3)]
        burn_in = int(_BURN_IN * self.num_steps)
        every = self.sampler.resample_every
        for step in range(self.num_steps):
            if step and every is not None and step % every == 0:
                momenta = _opposite(noise.next())
                coarse.refresh(momenta)
                fine.refresh(momenta)
            if step >= burn_in:
                ours, theirs = (arm.along(frame) for arm in (coarse, fine))
                found = (ours.square() - theirs.square(), ours - theirs, theirs.square())
                sums = [total + value for total, value in zip(sums, found, strict=True)]
            first, second = (_opposite(xi) for xi in noise.take(2))
            coarse.advance((decay * first + second) / (1 + decay**2) ** 0.5)
            fine.advance(first)
            fine.advance(second)
        count = self.num_steps - burn_in
        units = [s.view(2, half, -1).mean(0).numpy(force=True) / count for s in sums]
        return _relative(units, factor)

    def _starts(self, chains: Sequence[int], positions: Tensor) -> tuple[Tensor, list[int]]:
        """Draws in turn from every chain, spread over the run, and the chains' numbers."""
        per_chain = -(-self.num_chains // len(chains))
        some = np.linspace(0, positions.shape[1] - 1, per_chain).round().astype(int)
        spread = positions[:, some].transpose(0, 1).flatten(0, 1)[: self.num_chains]
        return spread, (list(chains) * per_chain)[: self.num_chains]


class _Arm:
    """All chains at one of the two step sizes."""

    def __init__(
        self, runs: PairedRuns, sampler: Sampler, settings: Settings, purpose: Stream
    ) -> None:
        self._runs, self._sampler, self._settings = runs, sampler, settings
        self._batches = runs.minibatches(purpose, runs.num_chains // 2)
        self._state: Any = None
        self._step = 0
        stream = self._batches.stream
        self._anchor_every = runs.plan.anchor_every(stream)

    @property
    def decay(self) -> float:
        """What a step leaves of its noise for the next one."""
        if isinstance(self._sampler, SGHMC):
            return self._sampler.coefficients(self._settings).decay
        if isinstance(self._sampler, AdaptiveSGHMC):
            return 1 - self._sampler.momentum_decay
        return 1.0

    def start(self, learnt: Mapping[str, Tensor], positions: Tensor, noise: Tensor) -> None:
        """From draws, with fresh momenta and what the sampler has learnt."""
        state = self._sampler.init(positions, noise, self._settings)
        known = {n: v for n, v in learnt.items() if n not in ("position", "momentum")}
        state = state._replace(**known)
        if "momentum" in state._fields:
            state = state._replace(momentum=torch.zeros_like(positions))
            state = self._sampler.refresh(state, noise, self._settings)
        self._state = state
        self._batches.anchor = self._runs.anchor(state.position)

    def refresh(self, noise: Tensor) -> None:
        """Redraw the momenta."""
        self._state = self._sampler.refresh(self._state, noise, self._settings)

    def along(self, frame: Frame) -> Tensor:
        """Coordinates of the chains along the directions, in float64."""
        return ((self._state.position - frame.center) @ frame.basis).double()

    def advance(self, noise: Tensor) -> None:
        """One step, on minibatches that pairs of chains share."""
        if self._step and self._anchor_every and self._step % self._anchor_every == 0:
            self._batches.anchor = self._runs.anchor(self._state.position)
        rows = self._batches.choose(1)
        batch = self._batches.take(None if rows is None else torch.cat([rows[0]] * 2))
        self._state, _ = take_step(
            self._sampler, self._runs.evaluate, self._state, batch, noise, self._settings
        )
        self._step += 1


def _half(sampler: Sampler) -> Sampler:
    """The sampler of the same dynamics at half the step: adaptive SGHMC's decay is per step."""
    if not isinstance(sampler, AdaptiveSGHMC):
        return sampler
    return replace(sampler, momentum_decay=1 - (1 - sampler.momentum_decay) ** 0.5)


def _opposite(noise: Tensor) -> Tensor:
    return torch.cat([noise, -noise])


def _relative(
    units: list[np.ndarray], factor: np.ndarray
) -> tuple[Estimate | None, Estimate | None]:
    """From means of y² − y'², y − y' and y'², y at ε and y' at ε/2, each (units, k)."""
    squares, differences, fine = (u[np.isfinite(sum(units)).all(1)] for u in units)
    if len(fine) < _FEWEST_UNITS:
        return None, None
    scale = fine.mean(0)
    return Estimate(factor * squares / scale), Estimate(factor * differences / scale**0.5)


def predict(
    runs: PairedRuns, method: str, positions: Tensor, frame: Frame
) -> tuple[linear_theory.Prediction, linear_theory.Prediction] | None:
    """The linear theory at ε and ε/2, for samplers that it covers."""
    sampler, target = runs.sampler, runs.target
    plain = isinstance(sampler, (SGHMC, SGLD, SGNHT)) and not sampler.corrects_noise
    if not plain or sampler.resample_every is not None or runs.plan.control_variates == "epoch":
        return None
    some = positions[:: max(1, len(positions) // 64)]

    def rotated(positions: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        value, gradient = runs.evaluate(positions, batch)
        return value, gradient @ frame.basis

    noise = gradient_variance(
        target, rotated, some, runs.plan.seed, anchor=runs.anchor(some), offset=_OFFSET
    )
    variance = noise.double().mean(0).numpy(force=True) / runs.plan.temperature
    scheme = getattr(sampler, "integrator", "symplectic")
    step_of = quadratic_step(method, scheme)
    friction = np.asarray(getattr(sampler, "friction", 1.0))
    epoch = None if target.batch_size is None else (target.num_data or 1) / target.batch_size
    at_step, at_half = (
        linear_theory.predict(
            step_of(frame.curvature, np.asarray(epsilon), friction, variance),
            frame.curvature,
            variance,
            epoch,
        )
        for epsilon in (sampler.step_size, sampler.step_size / 2)
    )
    return at_step, at_half


def extrapolation(
    runs: PairedRuns,
    predicted: tuple[linear_theory.Prediction, linear_theory.Prediction] | None,
) -> np.ndarray:
    """What turns bias(ε) − bias(ε/2) into bias(ε): by theory, else by the bias's order in ε."""
    noisy = runs.target.batch_size is not None
    order = 1 if noisy or isinstance(runs.sampler, SGLD) else 2
    usual = 1 / (1 - 0.5**order)
    if predicted is None:
        return np.asarray(usual)
    whole, half = (p.inflation for p in predicted)
    with np.errstate(all="ignore"):
        factor = whole / (whole - half)
    known = np.isfinite(factor) & (np.abs(whole) > _NO_BIAS)
    return np.where(known, factor, usual).clip(1.0, 2.0)
