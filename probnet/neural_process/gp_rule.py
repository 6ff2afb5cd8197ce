"""The exact Gaussian process as a predictive rule, by growing Cholesky factors."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from inference._checks import check_choice, check_positive
from probnet.datasets.functions.covariances import CORRELATIONS, distances
from probnet.linalg import jittered_cholesky
from probnet.neural_process.rules import PredictiveRule

_SPARE = 32  # rows of the first buffer beyond the context


class GPState(NamedTuple):
    """Data and factors of every path, in buffers that grow by doubling.

    Attributes:
        x: inputs `(P, capacity, d)`, or `(1, capacity, d)` while all paths share them.
        inverse: L⁻¹ of the noisy Gram matrix LLᵀ, `(P or 1, capacity, capacity)`.
        white: L⁻¹y, `(P, capacity)`.
        num_data: N, the number of observations.
    """

    x: Tensor
    inverse: Tensor
    white: Tensor
    num_data: int


class GPRule(PredictiveRule[GPState]):
    """p(y | x, data) of a Gaussian process with known hyper-parameters: mean 0, one output.

    A step costs O(N²) per path, or O(N²) for all paths together while they share their inputs.
    The factors of P paths with inputs of their own take P N² numbers.

    Args:
        kernel: `"rbf"`, `"matern"` or `"periodic"`, as in `GPTasks`.
        lengthscale: in units of x.
        amplitude: prior sd of f, in units of y.
        noise_sd: in units of y; above 0.
        period: of the periodic kernel.
        x_range: interval of inputs that future data are imagined in.

    Raises:
        ValueError: on an unknown kernel or a parameter that is not positive.
    """

    def __init__(
        self,
        kernel: Literal["rbf", "matern", "periodic"] = "rbf",
        *,
        lengthscale: float,
        amplitude: float = 1.0,
        noise_sd: float,
        period: float | None = None,
        x_range: tuple[float, float] | None = None,
    ) -> None:
        self.kernel = check_choice("kernel", kernel, sorted({*CORRELATIONS} - {"t_noise"}))
        self.lengthscale = check_positive("lengthscale", lengthscale)
        self.amplitude = check_positive("amplitude", amplitude)
        self.noise_sd = check_positive("noise_sd", noise_sd)
        if (period is None) == (kernel == "periodic"):
            raise ValueError(
                f"`period` must be given for the periodic kernel and for no other; got "
                f"{period} for {kernel!r}."
            )
        self.period = None if period is None else check_positive("period", period)
        self.x_range = x_range

    def start(self, xc: Tensor, yc: Tensor, num_paths: int) -> GPState:
        """See `PredictiveRule.start`."""
        if yc.shape[-1] != 1:
            raise ValueError(f"`yc` must have one output; got shape {tuple(yc.shape)}.")
        n = len(xc)
        gram = self._covariance(xc, xc)
        gram.diagonal().add_(self.noise_sd**2)
        eye = torch.eye(n, dtype=gram.dtype, device=gram.device)
        inverse = torch.linalg.solve_triangular(jittered_cholesky(gram), eye, upper=False)
        white = (inverse @ yc)[:, 0].expand(num_paths, n)
        return _with_capacity(GPState(xc[None], inverse[None], white, n), n + _SPARE)

    def predict(self, state: GPState, x: Tensor) -> Distribution:
        """See `PredictiveRule.predict`."""
        mean, variance, _ = self._moments(state, x)
        sd = (variance + self.noise_sd**2).sqrt()
        law: Any = Normal(
            mean[..., None], sd[..., None].expand(*mean.shape, 1), validate_args=False
        )
        return Independent(law, 1, validate_args=False)

    def evaluate(self, state: GPState, x: Tensor) -> Tensor:
        """See `PredictiveRule.evaluate`."""
        return self._moments(state, x[None])[0][..., None]

    def update(self, state: GPState, x: Tensor, y: Tensor) -> GPState:
        """See `PredictiveRule.update`."""
        mean, variance, half = self._moments(state, x)
        sd = (variance + self.noise_sd**2).sqrt()
        return self._appended(state, x, half, sd, (y[..., 0] - mean) / sd)

    def advance(self, state: GPState, x: Tensor) -> tuple[GPState, Tensor]:
        """See `PredictiveRule.advance`; the new entry of L⁻¹y is the standard normal drawn."""
        mean, variance, half = self._moments(state, x)
        sd = (variance + self.noise_sd**2).sqrt()
        white = torch.randn_like(mean)
        return self._appended(state, x, half, sd, white), (mean + sd * white)[..., None]

    def _covariance(self, x1: Tensor, x2: Tensor) -> Tensor:
        period = None if self.period is None else x1.new_tensor(self.period)
        correlation = CORRELATIONS[self.kernel](
            distances(x1, x2), x1.new_tensor(self.lengthscale), period
        )
        return self.amplitude**2 * correlation

    def _moments(self, state: GPState, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean `(P, q)`, variance `(P or 1, q)` of f, and L⁻¹k `(P or 1, N, q)`."""
        n = state.num_data
        half = state.inverse[:, :n, :n] @ self._covariance(state.x[:, :n], x)
        white = state.white[:, None, :n]
        mean = white[:, 0] @ half[0] if len(half) == 1 else (white @ half)[:, 0]
        variance = (self.amplitude**2 - (half**2).sum(-2)).clamp_min(0.0)
        return mean, variance, half

    @staticmethod
    def _appended(
        state: GPState, x: Tensor, half: Tensor, sd: Tensor, white: Tensor
    ) -> GPState:
        n = state.num_data
        if len(half) > len(state.x) or n == state.x.shape[1]:
            capacity = 2 * n if n == state.x.shape[1] else state.x.shape[1]
            state = _with_capacity(state, capacity, len(half))
        row = -(half.mT @ state.inverse[:, :n, :n]) / sd[..., None]
        state.x[:, n] = x[:, 0]
        state.inverse[:, n, :n] = row[:, 0]
        state.inverse[:, n, n] = 1 / sd[:, 0]
        state.white[:, n] = white[:, 0]
        return state._replace(num_data=n + 1)


def _with_capacity(state: GPState, capacity: int, designs: int = 1) -> GPState:
    """A copy in larger buffers, with inputs of their own for `designs` paths."""
    n, designs = state.num_data, max(designs, len(state.x))
    x = state.x.new_zeros((designs, capacity, state.x.shape[2]))
    inverse = state.inverse.new_zeros((designs, capacity, capacity))
    white = state.white.new_zeros((len(state.white), capacity))
    x[:, :n], white[:, :n] = state.x[:, :n], state.white[:, :n]
    inverse[:, :n, :n] = state.inverse[:, :n, :n]
    return GPState(x, inverse, white, n)
