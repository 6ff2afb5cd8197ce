"""What simulation-based calibration returns: ranks, p-values, coverage, a plot."""
# pyright: basic
# pandas and matplotlib are only partly typed.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from inference import export
from inference._checks import check_fraction
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


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranks of true parameters among posterior draws, and what they say.

    Attributes:
        ranks: name to integers in 0, ..., `num_samples`, shape (replication, *shape).
        num_samples: draws among which a truth was ranked.
        prior: the true parameters, name to (replication, *shape).
        dims: name to the names of its axes.
        attrs: method and seed.
    """

    ranks: Mapping[str, np.ndarray]
    num_samples: int
    prior: Mapping[str, np.ndarray]
    dims: Mapping[str, list[str]] = field(default_factory=dict[str, list[str]])
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        for name in ("ranks", "prior", "dims", "attrs"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        for array in (*self.ranks.values(), *self.prior.values()):
            array.flags.writeable = False

    @property
    def num_replications(self) -> int:
        """Number of data sets."""
        return len(next(iter(self.ranks.values())))

    @property
    def p_values(self) -> dict[str, np.ndarray]:
        """By name, shape (2, *shape): χ² on 20 bins, then Kolmogorov and Smirnov."""
        return {n: uniformity_p_values(r, self.num_samples) for n, r in self.ranks.items()}

    @property
    def passed(self) -> bool:
        """Whether the smallest p-value exceeds 0.001 / (number of p-values)."""
        found = np.concatenate([p.ravel() for p in self.p_values.values()])
        return bool(found.min() > FALSE_ALARM / found.size)

    def coverage(self, levels: Sequence[float] = LEVELS) -> dict[str, np.ndarray]:
        """Share of truths in central posterior intervals, by name, shape (level, *shape).

        Args:
            levels: probabilities of the intervals, each in (0, 1).
        """
        for level in levels:
            check_fraction("levels", level, closed=False)
        return {n: central_coverage(r, self.num_samples, levels) for n, r in self.ranks.items()}

    def coverage_z(self, levels: Sequence[float] = LEVELS) -> dict[str, np.ndarray]:
        """Excess of the coverage over p in units of √(p(1−p)/R); beyond ±3 is too far."""
        p = np.array(levels, dtype=float)
        error = np.sqrt(p * (1 - p) / self.num_replications)
        return {
            name: ((found.T - p) / error).T for name, found in self.coverage(levels).items()
        }

    def summary(self) -> pd.DataFrame:
        """One row a scalar: p-values and coverage."""
        import pandas

        p_values, coverage = self.p_values, self.coverage()
        rows = {
            label(name, index): [
                *p_values[name][:, *index],
                *coverage[name][:, *index],
            ]
            for name, ranks in self.ranks.items()
            for index in np.ndindex(ranks.shape[1:])
        }
        columns = [*(f"p_{test}" for test in TESTS), *(f"coverage_{p:g}" for p in LEVELS)]
        return pandas.DataFrame.from_dict(rows, orient="index", columns=columns)

    def to_datatree(self) -> xarray.DataTree:
        """Groups `ranks`, `p_values`, `coverage` and `prior` as an `xarray.DataTree`."""
        return export.build_datatree(
            {
                "ranks": self.ranks,
                "p_values": self.p_values,
                "coverage": self.coverage(),
                "prior": {name: values[None] for name, values in self.prior.items()},
            },
            coords={"test": list(TESTS), "level": list(LEVELS)},
            dims=self.dims,
            attrs={**self.attrs, "num_samples": self.num_samples, "passed": self.passed},
        )

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
