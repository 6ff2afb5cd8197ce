"""What simulation-based calibration returns: ranks, p-values, coverage, a plot."""
# pyright: basic
# pandas and matplotlib are only partly typed.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from inference import export
from inference._checks import check_fraction
from inference.calibration.independence import effective_samples
from inference.calibration.uniformity import (
    LEVELS,
    TESTS,
    central_coverage,
    ecdf_bands,
    uniformity_p_values,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray
    from matplotlib.axes import Axes

FALSE_ALARM = 0.001
"""Probability that a correct sampler fails a check, all its p-values together."""

_GROUPS = ("ranks", "prior", "posterior", "observed_data")


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of true parameters among posterior draws, and what they say.

    Attributes:
        ranks: name to integers in 0, ..., the number of draws, shape `(replication, *shape)`.
        prior: the true parameters and their log joint density `lp`, `(replication, *shape)`.
        posterior: draws of the same, `(replication, chain, draw, *shape)`.
        observed_data: the simulated data, `(replication, *shape)`.
        dims: name to the names of its axes.
        attrs: method and seed.
    """

    ranks: Mapping[str, np.ndarray]
    prior: Mapping[str, np.ndarray]
    posterior: Mapping[str, np.ndarray]
    observed_data: Mapping[str, np.ndarray]
    dims: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for name in (*_GROUPS, "dims", "attrs"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        for array in (a for name in _GROUPS for a in getattr(self, name).values()):
            array.flags.writeable = False

    @property
    def num_replications(self) -> int:
        """Number of data sets."""
        return len(next(iter(self.ranks.values())))

    @property
    def num_samples(self) -> int:
        """Draws among which a truth was ranked, all chains together."""
        return math.prod(next(iter(self.posterior.values())).shape[1:3])

    @property
    def ess(self) -> dict[str, np.ndarray]:
        """Mean effective sample size of a data set's draws, by name, of shape `shape`."""
        return {name: effective_samples(draws) for name, draws in self.posterior.items()}

    @property
    def p_values(self) -> dict[str, np.ndarray]:
        """By name, shape `(2, *shape)`: χ² on 20 bins, then Kolmogorov and Smirnov."""
        return {n: uniformity_p_values(r, self.num_samples) for n, r in self.ranks.items()}

    @property
    def passed(self) -> bool:
        """Whether the smallest p-value exceeds 0.001 / (number of p-values)."""
        found = np.concatenate([p.ravel() for p in self.p_values.values()])
        return bool(found.min() > FALSE_ALARM / found.size)

    def coverage(self, levels: Sequence[float] | np.ndarray = LEVELS) -> dict[str, np.ndarray]:
        """Share of truths in central posterior intervals, by name, shape `(level, *shape)`.

        Args:
            levels: probabilities of the intervals, each in (0, 1).

        Raises:
            TypeError: if `levels` is no list, or an empty one.
            ValueError: if a level is outside (0, 1).
        """
        if np.ndim(levels) != 1 or not len(levels):
            raise TypeError(f"`levels` must be a list of probabilities; got {levels!r}.")
        for level in levels:
            check_fraction("levels", level, closed=False)
        return {n: central_coverage(r, self.num_samples, levels) for n, r in self.ranks.items()}

    def coverage_z(
        self, levels: Sequence[float] | np.ndarray = LEVELS
    ) -> dict[str, np.ndarray]:
        """Excess of the coverage over p in units of √(p(1−p)/R); beyond ±3 is too far."""
        p = np.array(levels, dtype=float)
        error = np.sqrt(p * (1 - p) / self.num_replications)
        return {
            name: ((found.T - p) / error).T for name, found in self.coverage(levels).items()
        }

    def summary(self) -> pd.DataFrame:
        """One row a scalar: p-values, coverage and effective sample size."""
        import pandas

        p_values, coverage, ess = self.p_values, self.coverage(), self.ess
        rows = {
            label(name, index): [
                *p_values[name][:, *index],
                *coverage[name][:, *index],
                ess[name][index],
            ]
            for name, ranks in self.ranks.items()
            for index in np.ndindex(ranks.shape[1:])
        }
        levels = [f"coverage_{p:g}" for p in LEVELS]
        columns = [*(f"p_{test}" for test in TESTS), *levels, "ess"]
        return pandas.DataFrame.from_dict(rows, orient="index", columns=columns)

    def to_datatree(self) -> xarray.DataTree:
        """An `xarray.DataTree` of what was drawn and what was found.

        Groups `posterior (chain, draw, replication, *shape)`, `prior (chain, draw, *shape)`
        with a draw for each replication, `observed_data (replication, *shape)`, `ranks`,
        `p_values` and `coverage`.
        """
        attrs = {**self.attrs, "num_samples": self.num_samples, "passed": self.passed}
        posterior = {n: np.moveaxis(a, 0, 2) for n, a in self.posterior.items()}
        axes = {n: ["replication", *self.dims.get(n, [])] for n in self.posterior}
        data = {n: ["replication"] for n in self.observed_data}
        tree = export.build_datatree(
            {"posterior": posterior, "observed_data": self.observed_data},
            coords={},
            dims={**data, **axes},
            attrs=attrs,
        )
        found = export.build_datatree(
            {
                "prior": {name: values[None] for name, values in self.prior.items()},
                "ranks": self.ranks,
                "p_values": self.p_values,
                "coverage": self.coverage(),
            },
            coords={"test": list(TESTS), "level": list(LEVELS)},
            dims=self.dims,
            attrs=attrs,
        )
        return tree.assign(found.children)

    def to_arviz(self) -> Any:
        """What the installed ArviZ reads: `InferenceData` (0.x) or a DataTree (1.x)."""
        return export.to_arviz(self.to_datatree())

    def plot(self, ax: Axes | None = None, *, level: float = 0.95) -> Axes:
        """ECDF of every scalar's ranks minus that of uniform ones, with simultaneous bands.

        The ranks of a calibrated sampler stay between the bands everywhere with probability
        `level`, scalar by scalar. Source: Säilynoja, Bürkner & Vehtari (2022).

        Args:
            ax: matplotlib axes; a new figure by default.
            level: of the bands.
        """
        import matplotlib.pyplot as plt

        check_fraction("level", level, closed=False)
        axes: Any = plt.subplots()[1] if ax is None else ax
        grid, low, high = ecdf_bands(self.num_replications, self.num_samples, level)
        axes.fill_between(grid, low - grid, high - grid, color="0.85", label=f"{level:.0%}")
        for name, ranks in self.ranks.items():
            for index in np.ndindex(ranks.shape[1:]):
                own = np.sort(ranks[:, *index])
                below = np.searchsorted(own, np.arange(self.num_samples), side="right")
                text = label(name, index)
                axes.step(grid, below / len(own) - grid, where="post", label=text)
        axes.set(xlabel="fractional rank", ylabel="ECDF difference")
        axes.legend()
        return axes


def label(name: str, index: tuple[int, ...]) -> str:
    """`name[i, j]`, or the name alone for a scalar."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name
