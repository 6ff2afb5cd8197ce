"""Approximating families over the flat unconstrained vector, Pyro's wherever it has one."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormalizingFlow,
    init_to_value,
)
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from inference.pyro_handlers import GuideTrace
from inference.targets import Target

AUTOGUIDES: dict[str, Callable[..., AutoContinuous]] = {
    "mean_field": AutoDiagonalNormal,
    "multivariate": AutoMultivariateNormal,
    "low_rank": AutoLowRankMultivariateNormal,
    "iaf": AutoIAFNormal,
}
POINT_GUIDES = ("delta", "laplace")

_SITE = "position"


class Law(Protocol):
    """A law on R^dim."""

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draws (count, dim) and their log densities (count,)."""
        ...


class Guide(Law, Protocol):
    """A parametrised law, its draws reparametrised."""

    def parameters(self) -> Iterable[Tensor]:
        """What the optimiser moves."""
        ...


@runtime_checkable
class SelfFitting(Law, Protocol):
    """A law that brings its own optimiser, as those of NumPyro do."""

    def optimise(
        self, num_steps: int, learning_rate: float, *, final: float, **options: Any
    ) -> np.ndarray:
        """Maximise the evidence lower bound; returns it at each step."""
        ...


class AutoGuide:
    """A Pyro autoguide of one flat site.

    Gaussian guides stick the landing: the parameters inside log q are held fixed, so that the
    gradient's noise vanishes as the guide approaches the posterior. A flow would have to invert
    itself for that.

    Source: Roeder, Wu & Duvenaud (NeurIPS 2017).

    Args:
        build: an `AutoContinuous` class, or a function from a model to an instance of one.
        position: where to start, shape (dim,).
        options: passed to `build`.
    """

    def __init__(
        self, build: Callable[..., AutoContinuous], position: Tensor, **options: Any
    ) -> None:
        start = init_to_value(values={_SITE: position})

        def model() -> None:
            base = dist.Normal(torch.zeros_like(position), torch.ones_like(position))
            pyro.sample(_SITE, base.to_event(1))

        self._guide = build(model, init_loc_fn=start, **options)
        with pyro.get_param_store().scope():  # the first call finds the sites
            self._guide()
        self._guide.to(position.dtype)
        flow = isinstance(self._guide, AutoNormalizingFlow)
        self._held = None if flow else copy.deepcopy(self._guide).requires_grad_(False)

    def parameters(self) -> Iterable[Tensor]:
        """See `Guide`."""
        return self._guide.parameters()

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """See `Guide`."""
        posterior: Any = self._guide.get_posterior()
        positions = posterior.rsample((count,))
        if self._held is not None:
            self._held.load_state_dict(self._guide.state_dict())
            posterior = self._held.get_posterior()
        return positions, posterior.log_prob(positions)


class PointGuide:
    """A single position, with a Gaussian around it once it has been optimised.

    Attributes:
        location: the point, shape (dim,).
    """

    def __init__(self, position: Tensor) -> None:
        self.location = position.clone().requires_grad_()
        self._around: Distribution | None = None

    @property
    def bare(self) -> bool:
        """Whether there is no law around the point."""
        return self._around is None

    def parameters(self) -> Iterable[Tensor]:
        """See `Guide`."""
        return [self.location]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """See `Guide`; a bare point has log density 0."""
        if self._around is None:
            return self.location.expand(count, -1), self.location.new_zeros(count)
        positions: Any = self._around.rsample((count,))
        return positions, self._around.log_prob(positions)

    def laplace(self, log_density: Callable[[Tensor], Tensor]) -> None:
        """Put N(θ̂, H⁻¹) around the point, H the Hessian of the negative log density.

        Raises:
            ValueError: if H is not positive definite, so that the point is no maximum.
        """
        point = self.location.detach()
        hessian: Any = torch.func.jacrev(torch.func.grad(lambda z: -log_density(z)))(point)
        _, failed = torch.linalg.cholesky_ex(hessian)
        if int(failed):
            smallest = float(torch.linalg.eigvalsh(hessian)[0])
            raise ValueError(
                "guide='laplace' needs a maximum, but the Hessian there has the eigenvalue "
                f"{smallest:.3g}. Raise `num_steps`, or use guide='multivariate'."
            )
        self._around = MultivariateNormal(point, precision_matrix=hessian)


class UserGuide:
    """A Pyro guide of the user's, with one reparametrised site per parameter of the target.

    It is run draw by draw: torch's samplers cannot be vectorised. Its parameters live in Pyro's
    store: keep a scope of it around this object.

    Args:
        guide: called as the model is, on all the data.
        target: whose parameters it draws.

    Raises:
        ValueError: if it draws other sites than the target's parameters.
    """

    def __init__(self, guide: Callable[..., Any], target: Target) -> None:
        self._guide, self._target = guide, target
        trace = self._trace()
        wanted, drawn = set(target.layout.shapes), set(trace.values)
        if wanted != drawn:
            raise ValueError(
                f"`guide` must draw the sites {sorted(wanted)}; got {sorted(drawn)}."
            )

    def parameters(self) -> Iterable[Tensor]:
        """See `Guide`."""
        return [parameter for _, parameter in pyro.get_param_store().named_parameters()]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """See `Guide`."""
        drawn = [self._one() for _ in range(count)]
        return torch.stack([z for z, _ in drawn]), torch.stack([log_q for _, log_q in drawn])

    def _one(self) -> tuple[Tensor, Tensor]:
        trace = self._trace()
        position = self._target.unconstrain(trace.values)
        return position, trace.log_prob + self._target.log_jacobian(position)

    def _trace(self) -> GuideTrace:
        trace = GuideTrace(self._target.dtype)
        with trace:
            self._target.data.call(self._guide)
        return trace


def is_autoguide(guide: Any) -> bool:
    """Whether `guide` is a subclass of Pyro's `AutoContinuous`."""
    return isinstance(guide, type) and issubclass(guide, AutoContinuous)


def build_guide(
    guide: str | Callable[..., Any], position: Tensor, *, init_scale: float, rank: int | None
) -> Guide:
    """The guide of that name around `position`.

    Args:
        guide: a key of `AUTOGUIDES`, one of `POINT_GUIDES`, or an `AutoContinuous` class.
        position: where to start, shape (dim,).
        init_scale: standard deviation to start from.
        rank: of `"low_rank"`, by default ⌈√dim⌉.

    Raises:
        ValueError: for `"iaf"` of a single parameter, or a rank without `"low_rank"`.
    """
    dim = position.shape[0]
    if rank is not None and guide != "low_rank":
        raise ValueError(f"`rank` belongs to guide='low_rank'; the guide is {guide!r}.")
    if not isinstance(guide, str):
        return AutoGuide(guide, position)
    if guide in POINT_GUIDES:
        return PointGuide(position)
    if guide == "iaf":
        if dim < 2:
            raise ValueError("guide='iaf' needs at least 2 parameters; use 'multivariate'.")
        with warnings.catch_warnings():  # it warns of the starting point that it ignores
            warnings.simplefilter("ignore", FutureWarning)
            return AutoGuide(AUTOGUIDES[guide], position)
    options: dict[str, Any] = {"init_scale": init_scale}
    if guide == "low_rank":
        options["rank"] = rank or math.ceil(math.sqrt(dim))
    return AutoGuide(AUTOGUIDES[guide], position, **options)
