"""What targets made from probabilistic programs, Pyro's or NumPyro's, have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from inference.data import Leaves
from inference.targets import Named, Target


class ModelTarget(Target):
    """A target that can also be run forwards.

    Attributes:
        plates: site to {axis of its value: name of the plate}.
    """

    plates: dict[str, dict[int, str]]
    _subsample: str | None

    @property
    def subsamples_itself(self) -> bool:
        """Whether the model draws its own minibatches, so that it never sees all the data."""
        return self._subsample is not None

    @abstractmethod
    def sample_prior(self, seed: int) -> Tensor:
        """Position (dim,) of one draw from the prior."""

    @abstractmethod
    def prior(self) -> Named:
        """Constrained values of one draw from the prior, from torch's global generator."""

    @abstractmethod
    def posterior_predictive(self, values: Mapping[str, Tensor], data: Any = None) -> Named:
        """A new value of every observed site; draws from torch's global generator."""

    @abstractmethod
    def observed_data(self) -> Named:
        """The data at the observed sites."""

    @abstractmethod
    def observed_leaves(self) -> dict[str, list[int]]:
        """Observed site to the numbers of the arrays that it was given unchanged."""

    def _passes(self) -> list[Leaves | None]:
        """Row numbers that together cover the data, for a model that subsamples itself."""
        if self._subsample is None or self.num_data is None or self.batch_size is None:
            return [None]
        last = self.num_data - self.batch_size
        starts = [*range(0, last, self.batch_size), last]
        return [(self.leaves[0][s : s + self.batch_size],) for s in starts]

    def _join_passes(self, passes: list[Named]) -> Named:
        """One value a row; the last pass overlaps the one before it."""
        if len(passes) == 1:
            return passes[0]
        extra = (self.num_data or 0) % (self.batch_size or 1)
        keep = extra or (self.batch_size or 0)
        joined: Named = {}
        for name in passes[0]:
            axes = [a for a, plate in self.plates[name].items() if plate == self._subsample]
            if not axes:  # the same in every pass
                joined[name] = passes[0][name]
                continue
            pieces = [p[name].movedim(axes[0], 0) for p in passes]
            whole = torch.cat([*pieces[:-1], pieces[-1][-keep:]])
            joined[name] = whole.movedim(0, axes[0])
        return joined

    def _bind_own_subsample(self, sites: Mapping[str, Any], batch_size: int | None) -> None:
        """Take the number of rows and of those in a minibatch from the model's own plate."""
        frames = [f for s in sites.values() for f in s.frames if f.name == self._subsample]
        size, full = int(frames[0].size), int(frames[0].full_size)
        if batch_size not in (None, size):
            raise ValueError(
                f"`batch_size` is {batch_size}, but the model subsamples {size} rows itself in "
                f"plate {self._subsample!r}. Leave `batch_size` out."
            )
        self.num_data, self.batch_size = full, size
        self.leaves = (torch.arange(full, device=self.device),)


def plate_dims(sites: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """Site to {axis of its value: name of the plate}."""
    found: dict[str, dict[int, str]] = {}
    for name, site in sites.items():
        batch = site.value.ndim - site.event_dim
        axes = {batch + f.dim: f for f in site.frames if f.dim is not None}
        found[name] = {
            axis: frame.name
            for axis, frame in axes.items()
            if 0 <= axis < batch and site.value.shape[axis] == frame.size
        }
    return found


def own_subsample(sites: Mapping[str, Any]) -> str | None:
    """The plate in which the model draws a subsample by itself, if any."""
    names = {f.name for s in sites.values() for f in s.frames if f.size != f.full_size}
    if len(names) > 1:
        raise ValueError(
            f"the model subsamples in several plates, {sorted(names)}; one is supported."
        )
    return names.pop() if names else None
