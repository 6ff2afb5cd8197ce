"""The one loop over steps: warm-up, thinning, storage on the host, progress, interruption."""

from __future__ import annotations

import time
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.blocks import Block, EagerStepper, Stepper, Trajectory, join
from inference.checkpoint import Checkpoint, Snapshot
from inference.gradient_noise import gradient_variance
from inference.gradients import LogDensityAndGradient, map_chains
from inference.minibatches import Anchor, Minibatches
from inference.monitor import Monitor
from inference.plan import Plan, Run, Store
from inference.progress import delayed_interrupt, progress_bar
from inference.rng import NormalStream, Stream
from inference.samplers import Sampler, Settings
from inference.schedules import Constant, Phase
from inference.targets import Target

_CHUNK_VALUES = 1 << 22
_ESTIMATIONS = 32
_PAIRS_PER_ESTIMATION = 8


class Driver:
    """Runs a sampler on a target; see `run`.

    Args:
        target: the log density.
        sampler: what advances the chains.
        plan: how long, and what to keep.
        evaluate: log density and gradient, control variates included.
        minibatches: what data a step sees.
        stepper: what runs a block of steps; by default step after step.
        checkpoint: where to save the run as it goes.
    """

    def __init__(
        self,
        target: Target,
        sampler: Sampler,
        plan: Plan,
        evaluate: LogDensityAndGradient,
        minibatches: Minibatches | None = None,
        *,
        stepper: Stepper | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._target, self._sampler, self._plan = target, sampler, plan
        self._evaluate = evaluate
        dim = target.layout.dim
        self._noise = self._stream(Stream.NOISE)
        self._momentum = self._stream(Stream.MOMENTUM)
        self._minibatches = minibatches or Minibatches(
            target,
            plan.seed,
            plan.chains,
            shared=plan.share_batches,
            independent=sampler.corrects_noise,
        )
        self._stepper = stepper or EagerStepper(sampler, evaluate, self._minibatches)
        self._checkpoint = checkpoint
        self._monitor = Monitor(
            sampler, plan.num_chains, dim, target.device, may_lose_all=plan.is_group
        )
        chunk = max(1, min(64, _CHUNK_VALUES // (plan.num_chains * dim)))
        self._chunk = self._stepper.align(plan.chunk_size or chunk)
        self._draws = Store(plan.num_samples)
        self._stats = Store(plan.num_samples)
        self._warmup = Store(plan.num_warmup // plan.thin)
        self._estimate: tuple[Tensor, int] | None = None
        self._anchor_every = plan.anchor_every(self._minibatches.stream)
        self._estimation_steps = self._choose_estimation_steps()

    def run(self, positions: Tensor, snapshot: Snapshot | None = None) -> Run:
        """Advance every chain through warm-up and sampling.

        A draw is the position at which a step takes its gradient, so its log density and
        gradient norm cost nothing. Ctrl-C ends the run after the current chunk of steps, a
        second one at once; complete chunks are kept.

        Args:
            positions: starting points, shape (chains, dim).
            snapshot: of the run to go on with.

        Raises:
            AllChainsDivergedError: if every chain meets a non-finite value.
            KeyboardInterrupt: if interrupted before the first draw.
        """
        plan = self._plan
        state, start = self._begin(positions, snapshot)
        interrupted, enough = False, None
        if plan.until is not None:  # a run that goes on may be there already
            enough = plan.until.enough(self._draws, 0, 0.0)
        began = time.monotonic()
        with (
            progress_bar(plan.num_steps, start, plan.progress) as bar,
            delayed_interrupt() as stop,
        ):
            try:
                while start < plan.num_steps and not interrupted and enough is None:
                    before = self._draws.filled
                    end = min(start - start % self._chunk + self._chunk, plan.num_steps)
                    state = self._advance(state, start, end)
                    bar.advance(end - start, self._describe, warmup=end <= plan.num_warmup)
                    start, interrupted = end, bool(stop)
                    if plan.until is not None:
                        enough = plan.until.enough(
                            self._draws, before, time.monotonic() - began
                        )
                    last = interrupted or enough is not None or start == plan.num_steps
                    if self._checkpoint is not None and self._checkpoint.due(start, last=last):
                        self._checkpoint.save(self._snapshot(state, start), self._stores())
            except KeyboardInterrupt:
                interrupted = True
        if interrupted and not self._draws.filled:
            raise KeyboardInterrupt
        return self._finish(state, enough, interrupted=interrupted)

    def _finish(self, state: Any, enough: int | None, *, interrupted: bool) -> Run:
        self._monitor.check_clipping()
        count = min(self._draws.filled, self._stats.filled, enough or self._plan.num_samples)
        fields: dict[str, Tensor | None] = state._asdict()
        until = self._plan.until
        if until is not None and enough is None and not interrupted:
            until.warn_unreached(self._plan.num_samples)
        return Run(
            draws=self._draws.finished(count),
            sample_stats=self._stats.finished(count),
            warmup=self._warmup.finished(self._warmup.filled) if self._plan.keep_warmup else {},
            state={name: value for name, value in fields.items() if value is not None},
            interrupted=interrupted,
            died_at=self._monitor.died_at,
            predicted_inflation=self._predict_inflation(state),
            reached=None if until is None else enough is not None,
        )

    # ------------------------------------------------------------------ start, save, go on

    def _begin(self, positions: Tensor, snapshot: Snapshot | None) -> tuple[Any, int]:
        start = self._settings(0, self._plan.phase(0))
        noise = self._momentum.next()
        state = self._sampler.init(positions, noise, start)
        if snapshot is None:
            return state, 0
        tensors, self._monitor.died_at = snapshot.tensors, dict(snapshot.died_at)
        for chain in snapshot.died_at:
            self._monitor.alive[chain] = False
        self._noise.restore(tensors.part("noise"))
        self._momentum.restore(tensors.part("momentum"))
        if self._minibatches.stream is not None:
            self._minibatches.stream.restore(tensors.part("batches"))
        anchor = tensors.part("anchor")
        if anchor:
            self._minibatches.anchor = Anchor(anchor["position"], anchor["gradient"])
        estimate = tensors.part("estimate")
        if estimate:
            self._estimate = estimate["sum"], int(estimate["count"])
        for name, store in self._stores().items():
            store.load(snapshot.arrays.get(name, {}))
        saved = tensors.part("state")
        return type(state)(**{name: saved.get(name) for name in state._fields}), snapshot.step

    def _snapshot(self, state: Any, step: int) -> Snapshot:
        """Everything that the steps from `step` on depend on."""
        parts: dict[str, dict[str, Tensor]] = {
            "state": {n: v for n, v in state._asdict().items() if v is not None},
            "noise": self._noise.state(),
            "momentum": self._momentum.state(),
        }
        if self._minibatches.stream is not None:
            parts["batches"] = self._minibatches.stream.state()
        if self._minibatches.anchor is not None:
            parts["anchor"] = self._minibatches.anchor._asdict()
        if self._estimate is not None:
            total, count = self._estimate
            parts["estimate"] = {"sum": total, "count": torch.tensor(count)}
        return Snapshot.of(parts, step=step, died_at=self._monitor.died_at)

    def _stores(self) -> dict[str, Store]:
        return {"draws": self._draws, "sample_stats": self._stats, "warmup": self._warmup}

    # ------------------------------------------------------------------------------- steps

    def _advance(self, state: Any, start: int, stop: int) -> Any:
        """Steps `start` to `stop`, then health checks and storage."""
        first, done = state, list[Trajectory]()
        events = [s for s in range(start + 1, stop) if self._is_event(s)]
        for begin, end in zip([start, *events], [*events, stop], strict=True):
            state = self._before(state, begin)
            state, trajectories = self._stepper.advance(state, self._block(begin, end))
            done += trajectories
        values = torch.cat([t.log_density for t in done])
        self._monitor.check_finite(values, state.position, start)
        state = self._monitor.hold(state, first)
        for warmup, some in groupby(done, key=self._in_warmup):
            stats = None if warmup else self._stats
            self._flush(join(list(some)), self._warmup if warmup else self._draws, stats)
        return state

    def _in_warmup(self, trajectory: Trajectory) -> bool:
        return bool(trajectory.steps) and trajectory.steps[0] < self._plan.num_warmup

    def _is_event(self, step: int) -> bool:
        """Whether something happens just before `step`."""
        return (
            step == self._plan.num_warmup
            or self._plan.phase(step).restart
            or self._resamples(step)
            or self._reanchors(step)
            or step in self._estimation_steps
        )

    def _before(self, state: Any, step: int) -> Any:
        """What happens just before `step`."""
        phase = self._plan.phase(step)
        if self._reanchors(step):
            _, gradient = self._evaluate(state.position, None)
            self._minibatches.anchor = Anchor(state.position.clone(), gradient)
        if step in self._estimation_steps:
            self._add_estimate(state)
        if step == self._plan.num_warmup and self._estimate is not None:
            total, count = self._estimate
            state = self._sampler.correct(state, total / count)
        if step > 0 and (phase.restart or self._resamples(step)):
            settings = self._settings(step, phase)
            fresh = self._sampler.refresh(state, self._momentum.next(), settings)
            state = self._monitor.hold(fresh, state)
        return state

    def _block(self, start: int, stop: int) -> Block:
        phases = [self._plan.phase(step) for step in range(start, stop)]
        return Block(
            first=start,
            settings=[self._settings(start + i, phase) for i, phase in enumerate(phases)],
            keep=[phase.keep for phase in phases],
            noise=self._noise.take(stop - start),
            rows=self._minibatches.choose(stop - start),
        )

    def _settings(self, step: int, phase: Phase) -> Settings:
        factor = phase.factor**self._sampler.step_exponent
        return Settings(
            step_size=self._sampler.step_size * factor,
            temperature=0.0 if phase.explore else self._plan.temperature,
            warmup=step < self._plan.num_warmup,
        )

    def _resamples(self, step: int) -> bool:
        every = self._sampler.resample_every
        return every is not None and step > 0 and step % every == 0

    def _reanchors(self, step: int) -> bool:
        return self._anchor_every is not None and step % self._anchor_every == 0

    def _stream(self, purpose: Stream) -> NormalStream:
        return NormalStream(
            self._plan.seed,
            purpose,
            self._plan.chains,
            self._target.layout.dim,
            dtype=self._target.dtype,
            device=self._target.device,
        )

    # -------------------------------------------------------------------- gradient noise

    def _choose_estimation_steps(self) -> frozenset[int]:
        """Steps in the second half of the warm-up at which gradient noise is measured."""
        warmup = self._plan.num_warmup
        if not self._sampler.estimates_noise or self._minibatches.stream is None:
            return frozenset()
        if warmup < 2:
            raise ValueError(
                "`noise_correction` estimates the gradient's noise during the warm-up; "
                f"`num_warmup` must be at least 2, got {warmup}."
            )
        return frozenset(np.linspace(warmup // 2, warmup - 1, _ESTIMATIONS, dtype=int).tolist())

    def _add_estimate(self, state: Any) -> None:
        total, count = self._estimate or (torch.zeros_like(state.position), 0)
        found = self._measure_noise(state, _PAIRS_PER_ESTIMATION, offset=count)
        self._estimate = total + found, count + 1

    def _measure_noise(self, state: Any, pairs: int, *, offset: int = 0) -> Tensor:
        return gradient_variance(
            self._target,
            self._evaluate,
            state.position,
            self._plan.seed,
            chains=self._plan.chains,
            anchor=self._minibatches.anchor,
            pairs=pairs,
            offset=offset,
            independent=self._sampler.corrects_noise,
        )

    def _predict_inflation(self, state: Any) -> dict[str, float] | None:
        """Mean and maximum, over coordinates, of the variance that minibatches add."""
        plan = self._plan
        noisy = self._minibatches.stream is not None
        if not noisy or plan.temperature == 0 or self._monitor.all_lost:
            return None
        variance = self._measure_noise(state, 32, offset=_ESTIMATIONS)
        settings = self._settings(0, plan.phase(0))
        inflation = self._sampler.variance_inflation(variance, state, settings)
        by_coordinate = inflation[self._monitor.alive].mean(0)
        return {"mean": float(by_coordinate.mean()), "max": float(by_coordinate.max())}

    # ---------------------------------------------------------------------------- storage

    def _flush(self, found: Trajectory, draws: Store, stats: Store | None) -> None:
        """Constrain a chunk's positions and copy them, with their statistics, to the host."""
        if not found.steps:
            return
        dead = self._dead(found.steps)
        positions = found.states.position.transpose(0, 1)
        draws.append(
            {
                name: _to_host(_mark(values, dead))
                for name, values in self._constrain(positions).items()
            }
        )
        if stats is None:
            return
        figures = self._statistics(found)
        self._monitor.record({name: values.T for name, values in figures.items()})
        if isinstance(self._plan.schedule, Constant):  # elsewhere nothing is stationary
            self._monitor.check_kinetic(found.settings[-1], self._plan.thin)
        figures = {name: _mark(values, dead) for name, values in figures.items()}
        figures["frozen"] = dead
        stats.append({name: _to_host(values) for name, values in figures.items()})

    def _constrain(self, positions: Tensor) -> dict[str, Tensor]:
        """Constrained values (chain, draw, *shape) of positions (chain, draw, dim).

        A few draws at a time: a model with deterministic sites is run again, on its data.
        """
        chains, count, dim = positions.shape
        rows = self._target.batch_size or max((len(x) for x in self._target.leaves), default=1)
        group = max(1, _CHUNK_VALUES // (chains * max(rows, dim)))
        pieces: list[dict[str, Tensor]] = []
        for start in range(0, count, group):
            some = positions[:, start : start + group]
            flat = map_chains(
                self._target.constrain,
                some.reshape(-1, dim),
                chain_method=self._plan.chain_method,
            )
            shape = some.shape[:2]
            pieces.append({n: v.reshape(*shape, *v.shape[1:]) for n, v in flat.items()})
        return {name: torch.cat([p[name] for p in pieces], dim=1) for name in pieces[0]}

    def _statistics(self, found: Trajectory) -> dict[str, Tensor]:
        """Sample statistics (chain, draw) of a chunk."""
        lp = "lp" if self._target.batch_size is None else "lp_estimate"
        like = found.kept_log_density
        pieces: list[dict[str, Tensor]] = []
        start = 0
        for settings, some in groupby(found.settings):
            stop = start + len(list(some))
            part = type(found.states)(
                *(None if f is None else f[start:stop] for f in found.states)
            )
            ones = torch.ones_like(like[start:stop])
            pieces.append(
                {
                    lp: like[start:stop],
                    "grad_norm": found.gradient_norm[start:stop],
                    "step_size": settings.step_size * ones,
                    "temperature": settings.temperature * ones,
                    **self._sampler.statistics(part, settings),
                }
            )
            start = stop
        figures = {n: torch.cat([p[n] for p in pieces]).T for n in pieces[0]}
        cycles = [self._plan.phase(step).cycle for step in found.steps]
        if cycles[0] >= 0:
            figures["cycle"] = torch.tensor(cycles, device=like.device).expand(
                like.shape[1], -1
            )
        return figures

    def _dead(self, kept: list[int]) -> Tensor:
        """Where (chain, draw) a chain was frozen already."""
        never = self._plan.num_steps + 1
        died = [self._monitor.died_at.get(c, never) for c in range(self._plan.num_chains)]
        steps = torch.tensor(kept, device=self._target.device)
        return steps >= torch.tensor(died, device=self._target.device)[:, None]

    def _describe(self) -> dict[str, str]:
        """What the progress bar says beside the number of steps."""
        return self._monitor.describe(self._draws)


def _mark(values: Tensor, dead: Tensor) -> Tensor:
    """NaN where a chain was frozen; integer statistics are left alone."""
    if not bool(dead.any()) or not values.is_floating_point():
        return values
    return values.masked_fill(dead.reshape(*dead.shape, *[1] * (values.ndim - 2)), torch.nan)


def _to_host(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
