"""Draws of Gaussian processes whose hyper-parameters change from task to task."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from inference._checks import check_choice, check_integer, check_nonnegative, check_positive
from probnet.datasets.functions.covariances import CORRELATIONS, distances
from probnet.datasets.functions.sizes import Range, TaskSizes
from probnet.datasets.functions.tasks import TaskBatch, TaskStream, deal
from probnet.linalg import jittered_cholesky

Interval = tuple[float, float]


class GPTasks(TaskStream):
    r"""One-dimensional regression tasks from a Gaussian process: y ~ N(0, K + noise_sd² I).

    Inputs are uniform on `x_range`. Each task has its own lengthscale ℓ, amplitude s and period
    p, uniform on their intervals. The kernels, with Δ the distance and r = Δ/ℓ:

    - `"rbf"`: s² exp(-½ r²)
    - `"matern"`: s² (1 + √5 r + 5r²/3) exp(-√5 r)
    - `"periodic"`: s² exp(-2 sin²(π Δ/p)/ℓ²)
    - `"t_noise"`: `"rbf"` plus c_i t_i, with t_i Student-t and c_i uniform, both per point

    Source: Kim et al. (ICLR 2019) for the tasks, Lee et al. (NeurIPS 2020) for the ranges.

    Args:
        kernel: one of those names.
        x_range: interval of every input.
        num_context: smallest and largest n, drawn uniformly; `None`: as many as fit.
        num_target: smallest and largest m; `None`: up to `max_points` - 1 - n.
        max_points: bound of n + m.
        lengthscale: interval of ℓ, in units of x.
        amplitude: interval of s, a standard deviation in units of y.
        period: interval of p, in units of x.
        noise_sd: of the Gaussian noise, in units of y.
        student_df: degrees of freedom of t_i.
        student_scale: interval of c_i.
        x_dim: number of inputs; more than one not for `"periodic"`.
        shared_sizes: one n and one m for all tasks of a batch, instead of one for each task.
        bucketed: pad to one of few sizes (16, 32, ..., `max_points`) for a compiled step;
            otherwise to the largest task of the batch.
        dtype: of the tasks; the linear algebra is in float64.
        seed: of `split` and `generator`.

    Raises:
        ValueError: on an unknown kernel, an empty interval, or sizes that do not fit.

    Example:
        >>> tasks = GPTasks(kernel="matern", seed=0)
        >>> batch = tasks.batch(16, tasks.generator("train"))
        >>> batch.num_tasks, batch.xc.shape[2], batch.parameters["lengthscale"].shape
        (16, 1, torch.Size([16]))
    """

    y_dim = 1

    def __init__(
        self,
        kernel: Literal["rbf", "matern", "periodic", "t_noise"] = "rbf",
        *,
        x_range: Interval = (-2.0, 2.0),
        num_context: Range = (3, None),
        num_target: Range = (3, None),
        max_points: int = 50,
        lengthscale: Interval = (0.1, 0.6),
        amplitude: Interval = (0.1, 1.0),
        period: Interval = (0.1, 0.5),
        noise_sd: float = 0.02,
        student_df: float = 2.1,
        student_scale: Interval = (0.0, 0.15),
        x_dim: int = 1,
        shared_sizes: bool = False,
        bucketed: bool = True,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        self.kernel = check_choice("kernel", kernel, CORRELATIONS)
        self.x_dim = check_integer("x_dim", x_dim, 1)
        if kernel == "periodic" and x_dim > 1:
            raise ValueError(
                f"`x_dim` must be 1 for the periodic kernel, which is no covariance of "
                f"distances in more dimensions; got {x_dim}."
            )
        self._inputs = _interval("x_range", x_range)
        self.x_range = self._inputs
        self.sizes = TaskSizes(num_context, num_target, max_points, shared_sizes, bucketed)
        self.max_points = max_points
        self.intervals = {
            "lengthscale": _interval("lengthscale", lengthscale, above_zero=True),
            "amplitude": _interval("amplitude", amplitude, above_zero=True),
        }
        if kernel == "periodic":
            self.intervals["period"] = _interval("period", period, above_zero=True)
        self.noise_sd = check_nonnegative("noise_sd", noise_sd)
        self.student_df = check_positive("student_df", student_df)
        self.student_scale = _interval("student_scale", student_scale)
        self.dtype = dtype
        self.seed = check_integer("seed", seed, 0)

    def batch(self, batch_size: int, generator: Generator) -> TaskBatch:
        """New tasks, on the generator's device; see `TaskStream.batch`."""
        check_integer("batch_size", batch_size, 1)
        n, m = self.sizes.draw(batch_size, generator)
        options: dict[str, Any] = {"dtype": torch.float64, "device": generator.device}
        parameters = {
            name: _uniform(bounds, (batch_size,), generator, options)
            for name, bounds in self.intervals.items()
        }
        shape = (batch_size, int((n + m).max()), self.x_dim)
        # Kept in the type that is given away: the function is then drawn at these very inputs.
        x = _uniform(self._inputs, shape, generator, options).to(self.dtype).double()
        y = self._functions(x, parameters, generator)
        return deal(
            x.to(self.dtype),
            y[..., None].to(self.dtype),
            n,
            m,
            self.sizes.padded(n, m),
            parameters={name: value.to(self.dtype) for name, value in parameters.items()},
        )

    def _functions(
        self, x: Tensor, parameters: dict[str, Tensor], generator: Generator
    ) -> Tensor:
        """Noisy values `(B, N)`."""
        wide = {name: value[:, None, None] for name, value in parameters.items()}
        gram = wide["amplitude"] ** 2 * CORRELATIONS[self.kernel](
            distances(x, x), wide["lengthscale"], wide.get("period")
        )
        gram.diagonal(dim1=-2, dim2=-1).add_(self.noise_sd**2)
        white = torch.randn(
            (*x.shape[:2], 1), generator=generator, dtype=x.dtype, device=x.device
        )
        y = (jittered_cholesky(gram) @ white)[..., 0]
        if self.kernel == "t_noise":
            options: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
            scale = _uniform(self.student_scale, tuple(y.shape), generator, options)
            y = y + scale * student_t(self.student_df, tuple(y.shape), generator, options)
        return y


def student_t(
    df: float, shape: tuple[int, ...], generator: Generator, options: dict[str, Any]
) -> Tensor:
    """Standard Student-t numbers: cos(2πV) √(ν (U^(-2/ν) - 1)), with U and V uniform.

    torch's own sampler takes no generator. Source: Bailey (Mathematics of Computation 1994).
    """
    u, v = torch.rand((2, *shape), generator=generator, **options)
    u = 1 - u  # in (0, 1]
    return torch.cos(2 * math.pi * v) * (df * torch.expm1(-2 / df * u.log())).sqrt()


def _uniform(
    bounds: Interval, shape: tuple[int, ...], generator: Generator, options: dict[str, Any]
) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator, **options)


def _interval(name: str, bounds: Interval, *, above_zero: bool = False) -> Interval:
    low, high = (float(bound) for bound in bounds)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"`{name}` must be a finite interval (low, high); got {bounds}.")
    if above_zero and low <= 0:
        raise ValueError(f"`{name}` must lie above 0; got {bounds}.")
    return low, high
