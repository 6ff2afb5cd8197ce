"""What every family's posterior is; saving it and loading it again."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution

from inference._checks import check_integer
from inference.export import to_arviz
from inference.rng import Stream, scoped_seed, stream_seed
from probnet._archive import PosteriorState, read_header, read_state, write_posterior

if TYPE_CHECKING:
    import xarray

_FAMILIES: dict[str, type[Posterior]] = {}


class Posterior(ABC):
    """A fitted model: predictions in the user's units, exports, a file.

    A family subclasses it under a name of its own, `class BNNPosterior(Posterior,
    family="bnn")`, as a frozen dataclass, and defines `predict`, `to_datatree`, `state` and
    `from_state`. Its package is imported by probnet's `__init__`, so that `load` knows it.

    Attributes:
        family: the name that files carry; set by the class definition.
        method: how inference was done, as given to `fit`.
        diagnostics: JSON-able findings: convergence, evidence, warnings.
    """

    family: ClassVar[str]
    method: str
    diagnostics: Mapping[str, Any]

    def __init_subclass__(cls, family: str | None = None, **kwargs: Any) -> None:
        """Register the class under its family's name; without a name it is abstract."""
        super().__init_subclass__(**kwargs)
        if family is None:
            return
        known = _FAMILIES.get(family)
        # A module that is loaded again defines its classes again: same place, no clash.
        if known and (known.__module__, known.__name__) != (cls.__module__, cls.__name__):
            raise ValueError(
                f"`family` {family!r} is taken by {known.__module__}.{known.__qualname__}; "
                f"choose another name for {cls.__qualname__}."
            )
        cls.family = family
        _FAMILIES[family] = cls

    def __repr__(self) -> str:
        """Method and names of the findings: the numbers are in `diagnostics`."""
        found = ", ".join(self.diagnostics)
        return f"{type(self).__name__}(method={self.method!r}, diagnostics: {found or 'none'})"

    @abstractmethod
    def predict(self, x: Any, *, observation: bool = True, joint: bool = False) -> Distribution:
        """The predictive law at new inputs, in the user's units.

        Args:
            x: inputs, one row per point.
            observation: the law of a new observation y, noise included; `False`: that of the
                latent function.
            joint: the joint law of all points, whose `log_prob` is one number.

        Returns:
            A distribution whose last batch axis (event axis, if joint) is that of the points.

        Raises:
            ValueError: if a joint law is asked of a method that has none.
        """

    @abstractmethod
    def to_datatree(self) -> xarray.DataTree:
        """The posterior as an xarray tree in the ArviZ schema."""

    @abstractmethod
    def state(self) -> PosteriorState:
        """All that `from_state` needs to rebuild this object."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: PosteriorState) -> Self:
        """Rebuild the posterior."""

    def mean(self, x: Any, *, observation: bool = True) -> Tensor:
        """Mean of `predict(x)`."""
        return self.predict(x, observation=observation).mean

    def sd(self, x: Any, *, observation: bool = True) -> Tensor:
        """Standard deviation of `predict(x)`."""
        return self.predict(x, observation=observation).stddev

    def sample(
        self,
        n: int,
        x: Any,
        *,
        seed: int = 0,
        observation: bool = True,
        joint: bool = False,
    ) -> Tensor:
        """Draw n times from `predict(x)`, shape `(n, *batch)`; global generators are untouched.

        Args:
            n: number of samples, at least 1.
            x: inputs, one row per point.
            seed: equal seeds give equal samples.
            observation: as for `predict`.
            joint: as for `predict`: samples are then functions, with dependence between points.
        """
        check_integer("n", n, 1)
        with scoped_seed(stream_seed(check_integer("seed", seed, 0), Stream.PREDICTIVE)):
            law = self.predict(x, observation=observation, joint=joint)
            return law.sample(torch.Size((n,)))

    def to_arviz(self) -> Any:
        """What the installed ArviZ works on: `InferenceData` before 1.0, a DataTree after."""
        return to_arviz(self.to_datatree())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the posterior to one file, which `probnet.load` reads.

        The file appears under its name when it is complete, replacing an older one.

        Args:
            path: where; the folder must exist.

        Returns:
            The path.

        Raises:
            FileNotFoundError: if the folder does not exist.
            TypeError: if the configuration or the diagnostics are not JSON-able.
        """
        return write_posterior(path, self.family, self.state())


def load(path: str | os.PathLike[str]) -> Posterior:
    """Load a posterior of any family from the file that `Posterior.save` wrote.

    Nothing in the file is executed: the family's name in it is looked up among the classes
    that are defined, and their `from_state` is given numbers and text.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a complete posterior, of a newer format, or of a family
            that is not known.
    """
    header = read_header(path)
    family = header["family"]
    if family not in _FAMILIES:
        raise ValueError(
            f"{os.fspath(path)!r} holds a posterior of the family {family!r}, written by "
            f"probnet {header['versions']['probnet']}; known here are {sorted(_FAMILIES)}. "
            f"Upgrade probnet-bayes, or import the package that defines this family first."
        )
    return _FAMILIES[family].from_state(read_state(path, header))
