"""Scalars of an equation that are to be inferred."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions
import torch
from torch import Tensor
from torch.distributions import Distribution

from probnet.pde.functions import Function


@dataclass(frozen=True, eq=False)
class Unknown:
    """A scalar to be inferred, as a coefficient or as an amplitude: parameter * `times`.

    Args:
        name: of the Pyro parameter; the same name in two places is one parameter.
        prior: its distribution, torch's or Pyro's; taken to Pyro's in float64.
        times: the fixed number, array or function that the parameter multiplies.
    """

    name: str
    prior: Distribution
    times: Function = 1.0

    def __post_init__(self) -> None:
        """Check that it is a scalar."""
        if not isinstance(self.prior, Distribution):
            raise TypeError(
                f"`prior` of Unknown {self.name!r} must be a distribution; got {self.prior!r}."
            )
        if self.prior.batch_shape or self.prior.event_shape:
            raise ValueError(
                f"`prior` of Unknown {self.name!r} must be that of one number; it has batch "
                f"shape {tuple(self.prior.batch_shape)} and event shape "
                f"{tuple(self.prior.event_shape)}."
            )
        kind = getattr(pyro.distributions, type(self.prior).__name__, None)
        if kind is None:
            raise TypeError(
                f"`prior` of Unknown {self.name!r} must be a distribution that Pyro has too; "
                f"got {type(self.prior).__name__}."
            )
        object.__setattr__(self, "prior", kind(**parameters(self.prior)))


def parameters(prior: Distribution) -> dict[str, Tensor]:
    """The numbers that a prior was made from, in float64."""
    return {
        name: torch.as_tensor(getattr(prior, name), dtype=torch.float64)
        for name in prior.arg_constraints
    }
