"""Watches running chains: freezes those that diverge, warns once of untrustworthy noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from inference import diagnostics
from inference.errors import AllChainsDivergedError, warn
from inference.plan import Store
from inference.samplers import Sampler, Settings

_DECORRELATION_STEPS = 100
_CLIP_WARNING = 0.01
_ESS_DRAWS, _ESS_MOST, _ESS_SCALARS = 20, 1000, 8
_UNSTABLE_RATIO = 1000.0  # above it the step is unstable, and the excess says nothing


def warn_frozen(died_at: dict[int, int]) -> None:
    """Say which chains were frozen, and at which step."""
    warn(
        "chains were frozen at a non-finite log density or gradient (chain: step): "
        f"{died_at}. Their draws from there on are NaN. A smaller `step_size` may help."
    )


def all_diverged(died_at: dict[int, int], step_size: float) -> AllChainsDivergedError:
    """The error of a run with no chain left."""
    return AllChainsDivergedError(
        f"every chain met a non-finite log density or gradient, the last at step "
        f"{max(died_at.values())}. Reduce `step_size` (it is {step_size:g}; try "
        f"{step_size / 4:g}), or start elsewhere with `init`."
    )


class Monitor:
    """State of health of a block of chains.

    Args:
        sampler: whose stationary kinetic temperature is expected.
        num_chains: how many chains run.
        dim: length of a position.
        device: of the chains.
        may_lose_all: whether to go on when no chain is left.
    """

    def __init__(
        self,
        sampler: Sampler,
        num_chains: int,
        dim: int,
        device: torch.device,
        *,
        may_lose_all: bool = False,
    ) -> None:
        self._may_lose_all = may_lose_all
        self.alive = torch.ones(num_chains, dtype=torch.bool, device=device)
        self.died_at: dict[int, int] = {}
        self._sampler, self._dim = sampler, dim
        self._kinetic: list[Tensor] = []
        self._clipped: list[Tensor] = []
        self._warned: set[str] = set()

    @property
    def all_alive(self) -> bool:
        """Whether no chain is frozen."""
        return not self.died_at

    @property
    def all_lost(self) -> bool:
        """Whether every chain is frozen."""
        return not bool(self.alive.any())

    def hold(self, new: Any, old: Any) -> Any:
        """The new state where a chain is alive, the old one elsewhere."""
        if self.all_alive:
            return new
        pairs = zip(new, old, strict=True)
        held = (a if b is None else torch.where(self.alive[:, None], a, b) for a, b in pairs)
        return type(new)(*held)

    def check_finite(self, values: Tensor, position: Tensor, first_step: int) -> list[int]:
        """Freeze chains with a non-finite value, and say from which step.

        Args:
            values: log densities of a block of steps, shape (steps, chains).
            position: after the block, shape (chains, dim).
            first_step: number of the block's first step.

        Returns:
            The chains that were frozen just now.

        Raises:
            AllChainsDivergedError: if no chain is left.
        """
        bad = torch.cat([~torch.isfinite(values), ~torch.isfinite(position).all(-1)[None]])
        fresh = (bad.any(0) & self.alive).nonzero().flatten().tolist()
        for chain in fresh:
            self.died_at[chain] = first_step + int(bad[:, chain].nonzero()[0])
            self.alive[chain] = False
        if self.all_lost and not self._may_lose_all:
            raise all_diverged(self.died_at, self._sampler.step_size)
        if fresh and not self._may_lose_all:
            warn_frozen({chain: self.died_at[chain] for chain in fresh})
        return fresh

    def record(self, statistics: dict[str, Tensor]) -> None:
        """Take note of the statistics of kept draws, each of shape (draws, chains)."""
        dead = ~self.alive
        for name, store in (
            ("kinetic_temperature", self._kinetic),
            ("noise_clip_fraction", self._clipped),
        ):
            if name in statistics:
                store.append(statistics[name].masked_fill(dead, torch.nan).nanmean(-1))

    def check_kinetic(self, settings: Settings, thin: int) -> None:
        """Warn once if the momentum is twice or half as hot as the integrator keeps it.

        The comparison needs 100 steps, and as many independent ones as make a chance excess
        of that size impossible, counting one per coordinate, chain and 100 steps.
        """
        expected = self._sampler.stationary_kinetic_temperature(settings)
        if not expected or not self._kinetic or "kinetic" in self._warned or self.all_lost:
            return
        means = torch.cat(self._kinetic)
        steps = means.numel() * thin
        independent = self._dim * int(self.alive.sum()) * steps / _DECORRELATION_STEPS
        ratio, noise = float(means.mean()) / expected, 5 * math.sqrt(2 / independent)
        if steps < _DECORRELATION_STEPS:
            return
        if ratio > max(2, 1 + noise):
            self._warned.add("kinetic")
            shrink = 0.1 / (ratio - 1) if ratio < _UNSTABLE_RATIO else 0.25
            suggestion = shrink * self._sampler.step_size
            warn(
                f"the kinetic temperature is {ratio:.3g} times its stationary value over "
                f"{steps} steps: gradient noise or discretisation heats the chains, and the "
                f"draws are too wide. Reduce `step_size` to about {suggestion:.2g}, raise the "
                "friction, enlarge the minibatch, or warm up longer."
            )
        elif ratio < min(0.5, 1 - noise):
            self._warned.add("kinetic")
            warn(
                f"the kinetic temperature is {ratio:.2g} of its stationary value over {steps} "
                "steps: the chains are still too cold and the draws too narrow. Warm up longer."
            )

    def describe(self, draws: Store) -> dict[str, str]:
        """For the progress bar: ESS of a few scalars, frozen chains, clipped noise."""
        found: dict[str, str] = {}
        if draws.filled >= _ESS_DRAWS:
            values = next(iter(draws.finished(draws.filled).values()))
            scalars = values.reshape(*values.shape[:2], -1)[..., :_ESS_SCALARS]
            thinned = scalars[:, :: max(1, scalars.shape[1] // _ESS_MOST)]
            some = thinned[self.alive.numpy(force=True)]  # the only copy: draws are many
            found["ess"] = f"{diagnostics.ess(some).min():.0f}"
        if self.died_at:
            found["frozen"] = str(len(self.died_at))
        if self._clipped:
            found["clipped"] = f"{float(torch.cat(self._clipped).nanmean()):.1%}"
        return found

    def check_clipping(self) -> None:
        """Warn once if the correction exceeded the noise in over 1 % of the coordinates."""
        if not self._clipped or "clip" in self._warned:
            return
        share = float(torch.cat(self._clipped).nanmean())
        if share > _CLIP_WARNING:
            self._warned.add("clip")
            warn(
                f"the noise correction exceeds the injected noise in {share:.1%} of the "
                "coordinates (`noise_clip_fraction`); there the sampler is an optimiser. "
                "Reduce `step_size` or the correction."
            )
