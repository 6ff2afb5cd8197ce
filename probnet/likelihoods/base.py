"""What every likelihood does with latent values and parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from inference._checks import check_finite, check_positive
from probnet import predictive
from probnet._checks import Values, as_tensor, check_shape
from probnet.likelihoods.priors import checked_prior, describe_prior

Parameter: TypeAlias = float | Distribution
"""A positive number, fixed; or a prior on the positive reals, for one that is learned."""


@dataclass(frozen=True, eq=False)
class Likelihood(ABC):
    """p(y | f, parameters), independent over cases.

    Subclasses are frozen dataclasses; `parameter_names` names those fields that are positive
    numbers or priors.
    """

    parameter_names: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name in self.parameter_names:
            value = getattr(self, name)
            if isinstance(value, Distribution):
                object.__setattr__(self, name, checked_prior(name, value))
            elif value is not None:
                object.__setattr__(self, name, check_positive(name, value))

    @property
    def num_outputs(self) -> int:
        """Latent values per target."""
        return 1

    @property
    def priors(self) -> dict[str, Distribution]:
        """The prior of each learned parameter; empty if all are fixed."""
        values = {name: getattr(self, name) for name in self.parameter_names}
        return {name: v for name, v in values.items() if isinstance(v, Distribution)}

    def distribution(self, f: Tensor, **parameters: Tensor | float) -> Distribution:
        """The law of y given latent values.

        Args:
            f: latent values `(*batch, *shape of y)`, with a last axis of length `num_outputs`
                if that exceeds 1.
            **parameters: a value for each learned parameter, of shape `()` or of the leading
                axes of `batch`.

        Returns:
            A Pyro (hence torch) distribution over single values of y, unvalidated.

        Raises:
            TypeError: if a learned parameter is missing or another one is given.
            ValueError: if shapes do not fit.
        """
        shape = self._target_shape(f)
        self._check_names(parameters)
        values = {name: getattr(self, name) for name in self.parameter_names}
        for name, value in parameters.items():
            values[name] = _align(name, value, shape)
        return self._law(f, **{name: v for name, v in values.items() if v is not None})

    def log_prob(self, f: Tensor, y: Tensor, **parameters: Tensor | float) -> Tensor:
        """Log density (or mass) of each target, shape `(*batch, *shape of y)`.

        Args:
            f: latent values, as for `distribution`.
            y: targets, whose shape must be that of the trailing axes of f.
            **parameters: as for `distribution`.
        """
        self._check_fit(f, y)
        return self.distribution(f, **parameters).log_prob(y)

    def predictive(
        self, f: Tensor, *, num_draw_axes: int = 1, **parameters: Tensor | float
    ) -> Distribution:
        """The law of y averaged over posterior draws of f and of the parameters.

        Args:
            f: latent values `(*draws, *shape of y)`, plus the last axis of `num_outputs`.
            num_draw_axes: number of leading axes that are draws.
            **parameters: as for `distribution`.
        """
        return predictive.DrawsMixture(self.distribution(f, **parameters), num_draw_axes)

    def sample_parameters(self) -> dict[str, Tensor]:
        """Inside a Pyro model: a site for each learned parameter, named as the parameter."""
        priors: dict[str, Any] = self.priors
        return {name: pyro.sample(name, prior) for name, prior in priors.items()}

    def observe(
        self, name: str, f: Tensor, y: Tensor | None, **parameters: Tensor | float
    ) -> Tensor:
        """Inside a Pyro model and its data plates: the site of the targets.

        Args:
            name: of the site.
            f: latent values, as for `distribution`.
            y: observed targets, or `None` to draw them.
            **parameters: as returned by `sample_parameters`.
        """
        if y is not None:
            self._check_fit(f, y)
        law: Any = self.distribution(f, **parameters)
        return pyro.sample(name, law, obs=y)

    def check_targets(self, y: Values) -> Tensor:
        """Return targets as a tensor of the type that `log_prob` takes.

        Raises:
            ValueError: on NaN, infinity, or values that this law cannot produce.
        """
        targets = check_finite("y", as_tensor("y", y))
        allowed, meaning = self._allowed(targets)
        if not bool(allowed.all()):
            first = tuple(int(i) for i in (~allowed).nonzero()[0])
            raise ValueError(
                f"`y` must hold {meaning} for a {type(self).__name__} likelihood; "
                f"{int((~allowed).sum())} of {targets.numel()} values are not (first: "
                f"{targets[first].item():g} at index {first})."
            )
        return targets

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, from which `likelihood_from_dict` rebuilds the object."""
        described: dict[str, Any] = {"name": type(self).__name__}
        for entry in fields(self):
            value = getattr(self, entry.name)
            described[entry.name] = (
                describe_prior(value) if isinstance(value, Distribution) else value
            )
        return described

    @abstractmethod
    def _law(self, f: Tensor, **values: Any) -> Distribution:
        """The distribution at latent values f; parameters broadcast against y."""

    def _allowed(self, y: Tensor) -> tuple[Tensor, str]:
        """Which targets are possible, and in words which are."""
        return torch.ones_like(y, dtype=torch.bool), "real numbers"

    def _target_shape(self, f: Tensor) -> torch.Size:
        if self.num_outputs == 1:
            return f.shape
        if not f.ndim or f.shape[-1] != self.num_outputs:
            raise ValueError(
                f"`f` must have a last axis of {self.num_outputs} latent values per target for "
                f"a {type(self).__name__} likelihood; got shape {tuple(f.shape)}."
            )
        return f.shape[:-1]

    def _check_fit(self, f: Tensor, y: Tensor) -> None:
        shape = self._target_shape(f)
        trailing = shape[max(len(shape) - y.ndim, 0) :]
        check_shape("y", y.shape, trailing, f"that of the latent values, {tuple(f.shape)}")

    def _check_names(self, given: dict[str, Tensor | float]) -> None:
        learned = sorted(self.priors)
        if sorted(given) != learned:
            raise TypeError(
                f"This {type(self).__name__} likelihood learns {learned or 'no parameter'}: "
                f"pass a value for each of these and for no other; got {sorted(given)}."
            )


def _align(name: str, value: Tensor | float, shape: torch.Size) -> Tensor | float:
    """Let a parameter with leading batch axes broadcast against latent values."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    leading = shape[: value.ndim]
    fits = len(leading) == value.ndim and all(
        n in {1, m} for n, m in zip(value.shape, leading, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`{name}` must have shape () or that of the leading axes of `f`, whose targets "
            f"have shape {tuple(shape)}; got {tuple(value.shape)}."
        )
    return value.reshape(*value.shape, *(1 for _ in shape[value.ndim :]))
