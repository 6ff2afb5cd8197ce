"""Where functions are compared: random input sets, in standardised units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from inference._checks import check_finite, check_fraction, check_integer
from probnet._checks import Values, as_tensor, check_matrix
from probnet.standardizer import Standardizer

MAX_SIZE = 2000  # a dense Cholesky factorisation and eigenvalues at every step
_UNIT_MEAN, _UNIT_SD = 1.0, (0.25, 4.0)


class MeasurementSet:
    """Random sets of inputs: rows of a table, and uniform points in its bounding box.

    Targets speak of standardised inputs. A table in other units is therefore standardised,
    column by column, as `BNN.fit` does with its inputs.

    Args:
        x: inputs `(n, d)`, usually those of training.
        size: M, points per set, from 2 to 2000.
        data_fraction: share of rows of `x` in a set, without replacement; all rows are used if
            there are fewer. The rest is uniform.
        bounds: `"train"`, the box spanned by `x`, or a pair (lower, upper) of numbers or of d
            numbers in the units of `x`.
        standardize: whether to standardise; by default unless every column has `|mean| <= 1`
            and a standard deviation within [0.25, 4], as inputs have that are in such units
            already.

    Raises:
        ValueError: on NaN or infinity, sizes out of range, a lower bound at or above the upper
            one, or a constant column that is to be standardised.
    """

    def __init__(
        self,
        x: Values,
        size: int = 100,
        *,
        data_fraction: float = 0.7,
        bounds: str | tuple[Values, Values] = "train",
        standardize: bool | None = None,
    ) -> None:
        inputs = check_finite("x", check_matrix("x", x)).detach()
        self.size = _check_size(size)
        self.data_fraction = check_fraction("data_fraction", data_fraction)
        lower, upper = _bounds(bounds, inputs)
        if standardize is None:
            standardize = not _has_unit_scale(inputs)
        self.standardized = standardize
        if standardize:
            check_varies(inputs)
            standardizer = Standardizer.fit(inputs)
            inputs, lower, upper = (standardizer.transform(v) for v in (inputs, lower, upper))
        self._x, self._lower, self._upper = inputs, lower, upper

    @property
    def input_dim(self) -> int:
        """Number of columns."""
        return self._x.shape[1]

    @property
    def fixed(self) -> bool:
        """Whether every set is the same."""
        return False

    def draw(self, generator: Generator) -> Tensor:
        """One set, `(size, d)`, float64, in standardised units."""
        count = min(len(self._x), int(self.data_fraction * self.size))
        rows = torch.randperm(len(self._x), generator=generator)[:count]
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        uniform = torch.rand(self.size - count, self.input_dim, **options)
        points = self._lower + (self._upper - self._lower) * uniform
        return torch.cat([self._x[rows], points])


class Grid:
    """The same equidistant points on a line, each time; in standardised units.

    Args:
        lower: first point.
        upper: last point.
        size: M, number of points, from 2 to 2000.

    Raises:
        ValueError: if `lower` is not below `upper`, or the size is out of range.
    """

    standardized = False

    def __init__(self, lower: float, upper: float, size: int = 200) -> None:
        if not lower < upper:
            raise ValueError(f"`lower` must be below `upper`; got {lower} and {upper}.")
        self.size = _check_size(size)
        self._x = torch.linspace(lower, upper, size, dtype=torch.float64)[:, None]

    @property
    def input_dim(self) -> int:
        """One."""
        return 1

    @property
    def fixed(self) -> bool:
        """Whether every set is the same."""
        return True

    def draw(self, generator: Generator) -> Tensor:
        """The points, `(size, 1)`."""
        return self._x


def check_varies(x: Tensor) -> None:
    """Raise if a column of x is constant: it carries nothing, and has no standard units."""
    constant = (x.amax(0) == x.amin(0)).nonzero().flatten().tolist()
    if constant:
        raise ValueError(
            f"`x` must not have constant columns; columns {constant} are. Drop them, or pass "
            f"standardize=False."
        )


def _has_unit_scale(x: Tensor) -> bool:
    mean, sd = x.mean(0).abs(), x.std(0, correction=0)
    return bool(
        (mean <= _UNIT_MEAN).all() and (sd >= _UNIT_SD[0]).all() and (sd <= _UNIT_SD[1]).all()
    )


def _check_size(size: int) -> int:
    check_integer("size", size, 2)
    if size > MAX_SIZE:
        raise ValueError(
            f"`size` must be at most {MAX_SIZE}, for dense factorisations; got {size}."
        )
    return size


def _bounds(
    bounds: str | tuple[Values, Values] | Sequence[Any], x: Tensor
) -> tuple[Tensor, Tensor]:
    if isinstance(bounds, str):
        if bounds != "train":
            raise ValueError(f"`bounds` must be 'train' or (lower, upper); got {bounds!r}.")
        return x.amin(0), x.amax(0)
    lower, upper = (as_tensor("bounds", b).expand(x.shape[1]) for b in bounds)
    if not bool((lower < upper).all()):
        raise ValueError(
            f"`bounds` must have every lower bound below its upper one; got {lower.tolist()} "
            f"and {upper.tolist()}."
        )
    return lower, upper
