"""One-step predictive rules: what predictive resampling imagines the future data with.

A rule says how the next observation is distributed given those so far. Ten lines make one of
any regressor, here of scikit-learn; a tabular foundation model is wrapped alike::

    from sklearn.gaussian_process import GaussianProcessRegressor

    def predictor(x, y, x_new):
        model = GaussianProcessRegressor(alpha=0.01, optimizer=None).fit(x, y[:, 0])
        mean, sd = model.predict(x_new, return_std=True)
        return mean, (sd**2 + 0.01) ** 0.5  # of an observation, noise included

    rule = CallableRule(predictor)
    posterior = PredictiveResampler(rule, num_steps=20, num_paths=50).run(x, y)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, constraints

from inference._checks import check_positive
from probnet._checks import check_shape

State = TypeVar("State")

Predictor = Callable[
    [NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    Distribution | tuple[Any, Any],
]


class PredictiveRule(ABC, Generic[State]):
    """The law of the next y at any x, given the data so far, on many paths at once.

    A path is one imagined continuation of the data; all paths start from the same context and
    are advanced together. The state holds what the rule needs of the data (sums, factors,
    cached keys and values) with the paths as leading axis P. Inputs are `(P, q, d_x)`, or
    `(1, q, d_x)` where all paths share them; outputs are `(P, q, d_y)`.

    Whatever is conditioned once and for all, as a trained neural process, offers
    `as_rule() -> PredictiveRule` instead, and `PredictiveResampler` asks for that.

    Attributes:
        uses_inputs: `False` for a rule of exchangeable y without inputs.
        x_range: lowest and highest input that the rule is meant for, if known.
    """

    uses_inputs: bool = True
    x_range: tuple[float, float] | None = None

    @abstractmethod
    def start(self, xc: Tensor, yc: Tensor, num_paths: int) -> State:
        """The state of every path at the observed data.

        Args:
            xc: inputs `(n, d_x)`, float64.
            yc: outputs `(n, d_y)`, float64.
            num_paths: P.
        """

    @abstractmethod
    def predict(self, state: State, x: Tensor) -> Distribution:
        """The law of a new observation at each input: batch `(P, q)`, event `(d_y,)`."""

    @abstractmethod
    def update(self, state: State, x: Tensor, y: Tensor) -> State:
        """Append one observation, x `(P or 1, 1, d_x)` and y `(P, 1, d_y)`, to each path.

        The old state may share memory with the new one and is not to be used again.
        """

    def advance(self, state: State, x: Tensor) -> tuple[State, Tensor | None]:
        """Draw one observation on each path and append it; the new state, and y.

        A rule that can imagine an observation without knowing its value returns no y.
        """
        y = self.predict(state, x).sample()
        return self.update(state, x, y), y

    def evaluate(self, state: State, x: Tensor) -> Tensor:
        """The function of interest at inputs `(q, d_x)`: E[y | x, path], `(P, q, d_y)`."""
        return self.predict(state, x[None]).mean

    def grid(self, xc: Tensor, yc: Tensor, num_points: int) -> Tensor:
        """Where `evaluate` is called if nobody says: inputs `(q, d_x)`.

        By default on `x_range`, or the range of the context: equispaced in one dimension,
        Sobol points in more; the one empty input `(1, 0)` without inputs.
        """
        del yc
        if not self.uses_inputs:
            return xc.new_zeros((1, 0))
        low, high = self.domain(xc)
        dim = xc.shape[1]
        if dim == 1:
            unit = torch.linspace(0, 1, num_points, dtype=xc.dtype, device=xc.device)[:, None]
        else:
            unit = torch.quasirandom.SobolEngine(dim).draw(num_points).to(xc)
        return low + (high - low) * unit

    def domain(self, xc: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest inputs `(d_x,)` that future data are imagined at."""
        if self.x_range is None:
            return xc.amin(0), xc.amax(0)
        low, high = (xc.new_full(xc.shape[1:], bound) for bound in self.x_range)
        return low, high


class MeanState(NamedTuple):
    """Posterior of the mean on every path.

    Attributes:
        mean: posterior means `(P, d_y)`.
        weight: κ + number of observations.
    """

    mean: Tensor
    weight: float


class NormalMean(PredictiveRule[MeanState]):
    r"""Conjugate rule of a normal mean: y ~ N(θ, σ²), θ ~ N(m, σ²/κ), σ known.

    p(y_{n+1} | y_{1:n}) = N(m_n, σ² (1 + 1/(κ + n))), m_n = (κ m + Σ y)/(κ + n). Predictive
    resampling gives the posterior N(m_n, σ²/(κ + n)), of whose variance T steps show the
    fraction T/(κ + n + T).

    Args:
        noise_sd: σ, in units of y.
        prior_weight: κ > 0, worth of the prior in observations.
        prior_mean: m, in units of y.
    """

    uses_inputs = False

    def __init__(
        self, noise_sd: float = 1.0, *, prior_weight: float = 1.0, prior_mean: float = 0.0
    ) -> None:
        self.noise_sd = check_positive("noise_sd", noise_sd)
        self.prior_weight = check_positive("prior_weight", prior_weight)
        self.prior_mean = float(prior_mean)

    def start(self, xc: Tensor, yc: Tensor, num_paths: int) -> MeanState:
        """See `PredictiveRule.start`."""
        del xc
        weight = self.prior_weight + len(yc)
        mean = (self.prior_weight * self.prior_mean + yc.sum(0)) / weight
        return MeanState(mean.expand(num_paths, -1), weight)

    def predict(self, state: MeanState, x: Tensor) -> Distribution:
        """See `PredictiveRule.predict`."""
        sd = self.noise_sd * (1 + 1 / state.weight) ** 0.5
        paths, outputs = state.mean.shape
        mean = state.mean[:, None].expand(paths, x.shape[1], outputs)
        return Independent(Normal(mean, sd, validate_args=False), 1, validate_args=False)

    def update(self, state: MeanState, x: Tensor, y: Tensor) -> MeanState:
        """See `PredictiveRule.update`."""
        del x
        weight = state.weight + 1
        return MeanState(state.mean + (y[:, 0] - state.mean) / weight, weight)


class DataState(NamedTuple):
    """All data of every path.

    Attributes:
        x: inputs `(P, N, d_x)`.
        y: outputs `(P, N, d_y)`.
    """

    x: Tensor
    y: Tensor


class CallableRule(PredictiveRule[DataState]):
    """Any regressor as a rule: a plain function of data and new inputs.

    It is called for each path by itself, so the cost is that of P x T calls. For a regressor
    that is batched, subclass `PredictiveRule`.

    Args:
        predictor: called with the NumPy arrays x `(N, d_x)`, y `(N, d_y)` and x_new
            `(q, d_x)`; returns the mean and the standard deviation of new observations, each
            `(q,)` or `(q, d_y)`, or a torch distribution with batch shape `(q,)` and event
            shape `(d_y,)`.

    Raises:
        TypeError: if `predictor` cannot be called.

    Example:
        >>> def running_mean(x, y, x_new):
        ...     mean = y.mean(0) + 0 * x_new
        ...     return mean, 1.0 + 0 * mean
        >>> rule = CallableRule(running_mean)
        >>> state = rule.start(torch.zeros(3, 1), torch.ones(3, 1), num_paths=5)
        >>> rule.predict(state, torch.zeros(1, 2, 1)).mean.shape
        torch.Size([5, 2, 1])
    """

    def __init__(self, predictor: Predictor) -> None:
        if not callable(predictor):
            raise TypeError(
                f"`predictor` must be a function of (x, y, x_new); got "
                f"{type(predictor).__name__}."
            )
        self.predictor = predictor

    def start(self, xc: Tensor, yc: Tensor, num_paths: int) -> DataState:
        """See `PredictiveRule.start`."""
        return DataState(
            xc.expand(num_paths, *xc.shape).double(), yc.expand(num_paths, *yc.shape).double()
        )

    def predict(self, state: DataState, x: Tensor) -> Distribution:
        """See `PredictiveRule.predict`."""
        x = x.expand(len(state.y), *x.shape[1:])
        answers = [
            self.predictor(xi.numpy(), yi.numpy(), new.numpy())
            for xi, yi, new in zip(state.x, state.y, x, strict=True)
        ]
        laws = [answer for answer in answers if isinstance(answer, Distribution)]
        if laws:
            return _Stacked(laws)
        moments = [answer for answer in answers if not isinstance(answer, Distribution)]
        shape = (x.shape[1], state.y.shape[-1])
        mean, sd = (
            torch.stack([self._column(moment[i], shape) for moment in moments])
            for i in range(2)
        )
        return Independent(Normal(mean, sd), 1)

    def update(self, state: DataState, x: Tensor, y: Tensor) -> DataState:
        """See `PredictiveRule.update`."""
        x = x.expand(len(y), *x.shape[1:])
        return DataState(torch.cat([state.x, x], 1), torch.cat([state.y, y], 1))

    @staticmethod
    def _column(values: Any, shape: tuple[int, ...]) -> Tensor:
        tensor = torch.as_tensor(np.asarray(values), dtype=torch.float64)
        if tensor.ndim == 1 and shape[1] == 1:
            tensor = tensor[:, None]
        check_shape("predictor(...)", tensor.shape, shape, "one row per new input")
        return tensor


class _Stacked(Distribution):
    """One distribution per path, with the paths as leading batch axis."""

    def __init__(self, parts: list[Distribution]) -> None:
        self.parts = parts
        batch = torch.Size((len(parts), *parts[0].batch_shape))
        super().__init__(batch, parts[0].event_shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {}

    @property
    def mean(self) -> Tensor:
        return torch.stack([part.mean for part in self.parts])

    @property
    def variance(self) -> Tensor:
        return torch.stack([part.variance for part in self.parts])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape)
        return torch.stack([part.sample(shape) for part in self.parts], dim=len(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        axis = value.ndim - len(self.batch_shape) - len(self.event_shape)
        values = value.unbind(axis)
        logs = [part.log_prob(v) for part, v in zip(self.parts, values, strict=True)]
        return torch.stack(logs, dim=axis)
