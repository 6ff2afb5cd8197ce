"""Checked data of a fit, in the units the process works in, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from inference._checks import check_finite
from probnet._checks import Values, as_tensor, check_matrix, check_shape
from probnet.kernels.neural import NeuralKernel
from probnet.standardizer import Standardizer


@dataclass(frozen=True, eq=False)
class GPData:
    """Inputs and targets.

    Attributes:
        x: `(n, d)`, or images `(n, H, W, C)`; standardised if asked.
        y: `(n, outputs)`, standardised if asked.
        vector_target: whether the user's targets were `(n,)`.
        x_standardizer: of tables; `None` for the user's own units.
        y_standardizer: likewise, over outputs.
    """

    x: Tensor
    y: Tensor
    vector_target: bool
    x_standardizer: Standardizer | None
    y_standardizer: Standardizer | None

    @classmethod
    def checked(cls, kernel: Kernel, x: Values, y: Values, *, standardize: bool) -> GPData:
        """Check and, if asked, standardise; raises `ValueError` naming what is wrong."""
        inputs = check_inputs(kernel, "x", x)
        targets = check_finite("y", as_tensor("y", y)).detach().cpu()
        if targets.ndim not in {1, 2} or not targets.numel():
            raise ValueError(
                f"`y` must have shape (n,) or (n, outputs), one row per case; got "
                f"{tuple(targets.shape)}."
            )
        if len(targets) != len(inputs):
            raise ValueError(
                f"`x` and `y` must have the same number of rows, one per case; got "
                f"{len(inputs)} rows in `x` and {len(targets)} in `y`."
            )
        vector, targets = targets.ndim == 1, targets.reshape(len(targets), -1)
        x_standardizer = y_standardizer = None
        if standardize:
            y_standardizer = Standardizer.fit(targets)
            targets = y_standardizer.transform(targets)
            if inputs.ndim == 2:
                x_standardizer = Standardizer.fit(inputs)
                inputs = x_standardizer.transform(inputs)
        return cls(inputs, targets, vector, x_standardizer, y_standardizer)

    def inputs(self, kernel: Kernel, x: Values) -> Tensor:
        """New inputs, checked against the training inputs, in the process's units."""
        new = check_inputs(kernel, "x", x)
        if new.shape[1:] != self.x.shape[1:]:
            check_shape(
                "x", new.shape[1:], self.x.shape[1:], "that of a training row, for every row"
            )
        return new if self.x_standardizer is None else self.x_standardizer.transform(new)

    @property
    def unit(self) -> Tensor:
        """Standard deviation of each output in the user's units, `(outputs,)`."""
        if self.y_standardizer is None:
            return torch.ones(self.y.shape[1], dtype=torch.float64)
        return self.y_standardizer.scale

    def mean_to_user(self, mean: Tensor) -> Tensor:
        """Means `(*draws, outputs, m)` in the user's units, `(*draws, m)` of vector targets."""
        if self.y_standardizer is not None:
            mean = self.y_standardizer.inverse(mean.mT).mT
        return mean.squeeze(-2) if self.vector_target else mean

    def variance_to_user(self, variance: Tensor) -> Tensor:
        """Variances `(*draws, m)` at σ = 1 for every output, `(*draws, outputs, m)`."""
        spread = variance.unsqueeze(-2) * self.unit[:, None] ** 2
        return spread.squeeze(-2) if self.vector_target else spread

    def log_jacobian(self) -> float:
        """What ln p(y) changes by from the process's units to the user's."""
        return -len(self.y) * float(self.unit.log().sum())

    def config(self) -> dict[str, Any]:
        """What a file says of it, beside the tensors x and y."""
        return {
            "vector_target": self.vector_target,
            "x_standardizer": self.x_standardizer and self.x_standardizer.to_dict(),
            "y_standardizer": self.y_standardizer and self.y_standardizer.to_dict(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GPData:
        """Rebuild what `config` and the tensors describe."""
        maps = (config[f"{v}_standardizer"] for v in ("x", "y"))
        x_map, y_map = (None if m is None else Standardizer.from_dict(m) for m in maps)
        return cls(tensors["x"], tensors["y"], config["vector_target"], x_map, y_map)

    def appended(self, kernel: Kernel, x: Values, y: Values) -> GPData:
        """These data and further ones, on the scale of the first."""
        more = GPData.checked(kernel, x, y, standardize=False)
        if (more.vector_target, more.y.shape[1]) != (self.vector_target, self.y.shape[1]):
            raise ValueError(
                f"`y` must have as many outputs as the first targets, {self.y.shape[1]}; got "
                f"{more.y.shape[1]}."
            )
        z = self.inputs(kernel, x)
        y_new = more.y if self.y_standardizer is None else self.y_standardizer.transform(more.y)
        return GPData(
            torch.cat([self.x, z]),
            torch.cat([self.y, y_new]),
            self.vector_target,
            self.x_standardizer,
            self.y_standardizer,
        )


def check_inputs(kernel: Kernel, name: str, x: Values) -> Tensor:
    """Finite float64 inputs: a table `(n, d)`, or images where the kernel takes them."""
    tensor = as_tensor(name, x).detach().cpu()
    if (
        isinstance(kernel, NeuralKernel)
        and kernel.architecture.takes_images
        and tensor.ndim == 4
    ):
        if not tensor.numel():
            raise ValueError(f"`{name}` must not be empty; got shape {tuple(tensor.shape)}.")
        return check_finite(name, tensor)
    table = check_finite(name, check_matrix(name, tensor))
    active: Any = kernel.active_dims
    if kernel.ard_num_dims is not None and active is None:
        check_matrix(name, table, kernel.ard_num_dims)
    return table
