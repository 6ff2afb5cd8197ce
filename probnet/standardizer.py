"""Zero mean and unit variance, and back to the user's units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference._checks import check_finite
from probnet._checks import Values, as_tensor, check_shape


@dataclass(frozen=True, eq=False)
class Standardizer:
    """The affine map z = (v - mean) / scale, column by column.

    Fit it on training rows only and save it with the model: predictions are then in the
    user's units. `scale` is the population standard deviation (divisor n). A constant column
    has scale 1, so that it becomes zero and a later deviation keeps its size.

    Attributes:
        mean: shape `(d,)` for a table of d columns, `()` for a vector; float64.
        scale: same shape; all entries > 0.

    Example:
        >>> standardizer = Standardizer.fit(torch.tensor([1.0, 3.0]))
        >>> standardizer.transform(torch.tensor([1.0, 2.0])).tolist()
        [-1.0, 0.0]
    """

    mean: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        """Check that the two agree and that the map can be inverted."""
        check_shape("scale", self.scale.shape, self.mean.shape, "one scale per mean")
        if not bool((self.scale > 0).all()):
            raise ValueError(f"`scale` must be > 0 everywhere; got {self.scale.tolist()}.")

    @classmethod
    def fit(cls, values: Values) -> Standardizer:
        """The map that standardises these rows.

        Args:
            values: shape `(n, d)` or `(n,)`, with n >= 1; finite.

        Raises:
            ValueError: on an empty table, other shapes, NaN or infinity.
        """
        table = as_tensor("values", values).detach()
        if table.ndim not in {1, 2} or not table.numel():
            raise ValueError(
                f"`values` must have shape (n,) or (n, d) with at least one row; got "
                f"{tuple(table.shape)}."
            )
        check_finite("values", table)
        # The rounded sd of a constant column need not be zero, so compare the entries.
        constant = table.amax(0) == table.amin(0)
        scale = torch.where(constant, 1.0, table.std(0, correction=0))
        return cls(table.mean(0), scale)

    def transform(self, values: Values) -> Tensor:
        """Standardise `values`, shape `(..., d)`, keeping its floating-point type."""
        v, mean, scale = self._aligned(values)
        return self._like(values, (v - mean) / scale)

    def inverse(self, values: Values) -> Tensor:
        """Bring standardised values or means, shape `(..., d)`, back to the user's units."""
        z, mean, scale = self._aligned(values)
        return self._like(values, mean + scale * z)

    def inverse_sd(self, sd: Values) -> Tensor:
        """Bring standard deviations (or differences), shape `(..., d)`, back to user units."""
        s, _, scale = self._aligned(sd)
        return self._like(sd, scale * s)

    def to_dict(self) -> dict[str, Any]:
        """The map as JSON-able lists, exact in float64."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Standardizer:
        """Rebuild the map that `to_dict` described."""
        return cls(as_tensor("mean", fields["mean"]), as_tensor("scale", fields["scale"]))

    def _aligned(self, values: Values) -> tuple[Tensor, Tensor, Tensor]:
        tensor = as_tensor("values", values)
        columns = self.mean.shape
        got = tensor.shape[-1:] if columns else columns
        if got != columns:
            raise ValueError(
                f"`values` must end in {columns[0]} columns, as the fitted table did; got "
                f"shape {tuple(tensor.shape)}."
            )
        return tensor, self.mean.to(tensor.device), self.scale.to(tensor.device)

    @staticmethod
    def _like(values: Values, result: Tensor) -> Tensor:
        if isinstance(values, Tensor) and values.is_floating_point():
            return result.to(values.dtype)
        return result
