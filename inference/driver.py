"""The one loop over steps: warm-up, thinning, storage on the host, progress, interruption."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from inference.data import BatchStream, Leaves, take_rows
from inference.gradient_noise import gradient_variance
from inference.gradients import LogDensityAndGradient, map_chains
from inference.monitor import Monitor
from inference.plan import Plan, Run, Store
from inference.rng import NormalStream, Stream
from inference.samplers import Info, Sampler, Settings
from inference.schedules import Constant, Phase
from inference.targets import Target

_CHUNK_VALUES = 1 << 22


class _Kept(NamedTuple):
    """One position to be stored, still on the device."""

    state: Any
    info: Info
    settings: Settings
    step: int
    cycle: int


class Driver:
    """Runs a sampler on a target; see `run`."""

    def __init__(
        self,
        target: Target,
        sampler: Sampler,
        plan: Plan,
        evaluate: LogDensityAndGradient,
    ) -> None:
        self._target, self._sampler, self._plan = target, sampler, plan
        self._evaluate = evaluate
        chains, dim = plan.num_chains, target.layout.dim
        self._noise = self._stream(Stream.NOISE)
        self._momentum = self._stream(Stream.MOMENTUM)
        self._batches = self._batch_stream()
        self._monitor = Monitor(sampler, chains, dim, target.device)
        self._chunk = plan.chunk_size or max(1, min(64, _CHUNK_VALUES // (chains * dim)))
        self._draws = Store(plan.num_samples)
        self._stats = Store(plan.num_samples)
        self._warmup = Store(plan.num_warmup // plan.thin)

    def run(self, positions: Tensor) -> Run:
        """Advance every chain through warm-up and sampling.

        A draw is the position at which a step takes its gradient, so its log density and
        gradient norm cost nothing. Ctrl-C ends the run and keeps the chunks that are complete.

        Args:
            positions: starting points, shape (chains, dim).

        Raises:
            AllChainsDivergedError: if every chain meets a non-finite value.
            KeyboardInterrupt: if interrupted before the first draw.
        """
        plan = self._plan
        state = self._sampler.init(
            positions, self._momentum.next(), self._settings(0, plan.phase(0))
        )
        interrupted = False
        with tqdm(total=plan.num_steps, disable=None if plan.progress else True) as bar:
            try:
                for start in range(0, plan.num_steps, self._chunk):
                    stop = min(start + self._chunk, plan.num_steps)
                    bar.set_description("warmup" if stop <= plan.num_warmup else "sample")
                    state = self._advance(state, start, stop, bar)
            except KeyboardInterrupt:
                interrupted = True
                if not self._draws.filled:
                    raise
        self._monitor.check_clipping()
        count = min(self._draws.filled, self._stats.filled)
        fields: dict[str, Tensor] = state._asdict()
        return Run(
            draws=self._draws.finished(count),
            sample_stats=self._stats.finished(count),
            warmup=self._warmup.finished(self._warmup.filled) if plan.keep_warmup else {},
            state=fields,
            interrupted=interrupted,
            died_at=self._monitor.died_at,
            predicted_inflation=self._predict_inflation(state),
        )

    def _predict_inflation(self, state: Any) -> dict[str, float] | None:
        """Mean and maximum, over coordinates, of the variance that minibatches add."""
        plan = self._plan
        if self._batches is None or plan.temperature == 0:
            return None
        variance = gradient_variance(self._target, self._evaluate, state.position, plan.seed)
        settings = self._settings(0, plan.phase(0))
        inflation = self._sampler.variance_inflation(variance, state, settings)
        by_coordinate = inflation[self._monitor.alive].mean(0)
        return {"mean": float(by_coordinate.mean()), "max": float(by_coordinate.max())}

    def _advance(self, state: Any, start: int, stop: int, bar: tqdm[Any]) -> Any:
        """Steps `start` to `stop`, then health checks and storage."""
        first, values, kept = state, list[Tensor](), list[_Kept]()
        for step in range(start, stop):
            phase = self._plan.phase(step)
            settings = self._settings(step, phase)
            if step > 0 and (phase.restart or self._resamples(step)):
                fresh = self._sampler.refresh(state, self._momentum.next(), settings)
                state = self._monitor.hold(fresh, state)
            batch, noise = self._next_batch(), self._noise.next()
            new, info = self._sampler.step(self._evaluate, state, batch, noise, settings)
            new = self._monitor.hold(new, state)
            if phase.keep:
                kept.append(_Kept(state, info, settings, step, phase.cycle))
            values.append(info.log_density)
            state = new
            bar.update()
        self._monitor.check_finite(torch.stack(values), state.position, start)
        state = self._monitor.hold(state, first)
        self._flush([k for k in kept if k.step < self._plan.num_warmup], self._warmup, None)
        self._flush(
            [k for k in kept if k.step >= self._plan.num_warmup], self._draws, self._stats
        )
        return state

    def _flush(self, kept: list[_Kept], draws: Store, stats: Store | None) -> None:
        """Constrain a chunk's positions and copy them, with their statistics, to the host."""
        if not kept:
            return
        dead = self._dead(kept)
        positions = torch.stack([k.state.position for k in kept], dim=1)
        draws.append(
            {
                name: _to_host(_mark(values, dead))
                for name, values in self._constrain(positions).items()
            }
        )
        if stats is None:
            return
        found = self._statistics(kept)
        self._monitor.record({name: values.T for name, values in found.items()})
        if isinstance(self._plan.schedule, Constant):  # elsewhere nothing is stationary
            self._monitor.check_kinetic(kept[-1].settings, self._plan.thin)
        found = {name: _mark(values, dead) for name, values in found.items()}
        found["frozen"] = dead
        stats.append({name: _to_host(values) for name, values in found.items()})

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

    def _statistics(self, kept: list[_Kept]) -> dict[str, Tensor]:
        """Sample statistics (chain, draw) of a chunk."""
        lp = "lp" if self._target.batch_size is None else "lp_estimate"
        like = kept[0].info.log_density
        per_draw = [
            {
                lp: k.info.log_density,
                "grad_norm": torch.linalg.vector_norm(k.info.gradient, dim=-1),
                "step_size": torch.full_like(like, k.settings.step_size),
                "temperature": torch.full_like(like, k.settings.temperature),
                **self._sampler.statistics(k.state, k.settings),
            }
            for k in kept
        ]
        found = {n: torch.stack([d[n] for d in per_draw], dim=1) for n in per_draw[0]}
        if kept[0].cycle >= 0:
            cycles = torch.tensor([k.cycle for k in kept], device=like.device)
            found["cycle"] = cycles.expand(len(like), -1)
        return found

    def _dead(self, kept: list[_Kept]) -> Tensor:
        """Where (chain, draw) a chain was frozen already."""
        never = self._plan.num_steps + 1
        died = [self._monitor.died_at.get(c, never) for c in range(self._plan.num_chains)]
        steps = torch.tensor([k.step for k in kept], device=self._target.device)
        return steps >= torch.tensor(died, device=self._target.device)[:, None]

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

    def _next_batch(self) -> Leaves | None:
        if self._batches is None:
            return None
        return take_rows(self._target.leaves, self._batches.next())

    def _stream(self, purpose: Stream) -> NormalStream:
        return NormalStream(
            self._plan.seed,
            purpose,
            range(self._plan.num_chains),
            self._target.layout.dim,
            dtype=self._target.dtype,
            device=self._target.device,
        )

    def _batch_stream(self) -> BatchStream | None:
        target = self._target
        if target.batch_size is None or target.num_data is None:
            return None
        return BatchStream(
            self._plan.seed,
            range(self._plan.num_chains),
            target.num_data,
            target.batch_size,
            shared=self._plan.share_batches,
            device=target.device,
        )


def _mark(values: Tensor, dead: Tensor) -> Tensor:
    """NaN where a chain was frozen; integer statistics are left alone."""
    if not bool(dead.any()) or not values.is_floating_point():
        return values
    return values.masked_fill(dead.reshape(*dead.shape, *[1] * (values.ndim - 2)), torch.nan)


def _to_host(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
