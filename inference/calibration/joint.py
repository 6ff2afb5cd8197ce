"""Draws of parameters and data together: from a Pyro model itself, or from two functions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch

from inference.binding import bind
from inference.calibration.values import cast, check_drawn, each, read_values
from inference.data import Data, Leaves
from inference.log_density import LogDensity
from inference.model_target import ModelTarget
from inference.targets import Named, Target
from inference.tree import nest_names

PriorSample = Callable[[int], Mapping[str, Any]]
"""`prior_sample(num) -> params`, every array with a leading axis of `num` draws."""

Simulate = Callable[[Any], Any]
"""`simulate(params) -> data`, every array with the leading axis of `params`."""


class Joint(ABC):
    """A model that can be run forwards, many times at once.

    Random numbers come from torch's and NumPy's global generators: call inside `scoped_seed`.

    Attributes:
        target: the model with one data set of the right shapes, all its rows at once.
    """

    target: Target

    @abstractmethod
    def prior(self, num: int) -> Named:
        """Constrained parameters, every one of shape (num, *shape)."""

    @abstractmethod
    def simulate(self, values: Named) -> Leaves:
        """Arrays of one data set for every entry of `values`, leading axis first."""

    @abstractmethod
    def observed(self, leaves: Leaves) -> Named:
        """What `simulate` drew, by name."""

    @abstractmethod
    def bind(self, batch_size: int | None) -> Target:
        """The target with minibatches."""

    def nest(self, values: Named) -> Any:
        """Parameters in the structure that the user gave them."""
        return values if isinstance(self.target, ModelTarget) else nest_names(values)

    def read(self, params: Mapping[str, Any], num: int) -> Named:
        """Flat parameters of what a user's function returned, checked."""
        target = self.target
        zero = torch.zeros(target.layout.dim, dtype=target.dtype)
        shapes = {n: v.shape for n, v in target.constrain(zero).items()}
        flat = read_values("method", params, {n: shapes[n] for n in target.layout.shapes}, num)
        return {name: value.to(target.dtype) for name, value in flat.items()}

    def structure(self, leaves: Leaves) -> Any:
        """Arrays in the structure of the user's data."""
        return self.target.data.rebuild(leaves)


def joint_model(
    target: LogDensity | Callable[..., Any],
    data: Any,
    prior_sample: PriorSample | None,
    simulate: Simulate | None,
    dtype: torch.dtype | None,
) -> Joint:
    """The forward model that the arguments of `sbc` and `geweke` describe.

    Raises:
        TypeError: if `target` is neither a Pyro model nor a `LogDensity`, or what should be a
            function is not.
        ValueError: on arguments that do not go together, or a model that cannot simulate.
    """
    if isinstance(target, LogDensity):
        given = {"prior_sample": prior_sample, "simulate": simulate}
        if prior_sample is None or simulate is None:
            missing = [name for name, function in given.items() if function is None]
            raise ValueError(
                "a LogDensity does not say how parameters and data arise: give "
                f"{' and '.join(f'`{name}`' for name in missing)}."
            )
        if data is not None:
            raise ValueError("`data` comes from `simulate` for a LogDensity; leave it out.")
        for name, function in given.items():
            if not callable(function):
                raise TypeError(f"`{name}` must be a function; got {type(function).__name__}.")
        return _Functions(target, prior_sample, simulate, dtype)
    if prior_sample is not None or simulate is not None:
        raise ValueError(
            "a Pyro model draws parameters and data itself; leave `prior_sample` and "
            "`simulate` out."
        )
    return _Pyro(target, data, dtype)


class _Pyro(Joint):
    """A model: observed sites are redrawn, other arrays are covariates and stay."""

    def __init__(self, model: Callable[..., Any], data: Any, dtype: torch.dtype | None) -> None:
        bound = bind(model, data, batch_size=None, dtype=dtype, device=None)
        assert isinstance(bound, ModelTarget)
        self._model, self._data, self._dtype = model, data, dtype
        self.target = self._pyro = bound
        if bound.batch_size is not None:
            raise ValueError(
                "the model subsamples its rows itself, so it cannot be given other data sets: "
                "let it take rows, pyro.plate('data', N, subsample_size=len(y)), and pass "
                "`batch_size`."
            )
        self._sites = self._match_sites()

    def _match_sites(self) -> dict[str, int]:
        """Observed site to the position of its array among the leaves."""
        observed = self._pyro.observed_leaves()
        if not observed:
            raise ValueError("the model has no observed site, so it cannot simulate data.")
        start = torch.zeros(self._pyro.layout.dim, dtype=self._pyro.dtype)
        latent = set(self._pyro.layout.shapes)
        factors = set(self._pyro.terms(start)) - set(observed) - latent
        if factors:
            raise ValueError(
                f"{sorted(factors)} are factors: no data can be drawn from them. Write the "
                "model with observed sites."
            )
        found: dict[str, int] = {}
        for name, same in observed.items():
            if len(same) != 1 or same[0] in found.values():
                raise ValueError(
                    f"observed site {name!r} must be given one array of `data` unchanged "
                    "(obs=y, and y in no other site), else simulated data cannot take its "
                    "place."
                )
            found[name] = same[0]
        return found

    def prior(self, num: int) -> Named:
        drawn = each(lambda _: self._pyro.prior(), {"": torch.zeros(num)})
        fixed = [n for n, v in drawn.items() if num > 1 and bool((v == v[:1]).all())]
        if fixed:
            raise ValueError(
                f"the prior of {fixed} cannot be drawn from: it is improper, or a point. Give "
                "a proper prior."
            )
        return {n: check_drawn(f"the prior of {n!r}", v) for n, v in drawn.items()}

    def simulate(self, values: Named) -> Leaves:
        count = len(next(iter(values.values())))
        leaves = [x.expand(count, *x.shape) for x in self._pyro.leaves]
        for name, drawn in each(self._pyro.posterior_predictive, values).items():
            place = self._sites[name]
            if drawn.shape != leaves[place].shape:
                raise ValueError(
                    f"site {name!r} draws values of shape {tuple(drawn.shape[1:])}, but is "
                    f"observed with shape {tuple(leaves[place].shape[1:])}. Put it in a plate."
                )
            check_drawn(f"site {name!r}", drawn)
            leaves[place] = cast(f"site {name!r}", drawn, leaves[place].dtype)
        return tuple(leaves)

    def observed(self, leaves: Leaves) -> Named:
        return {name: leaves[place] for name, place in self._sites.items()}

    def bind(self, batch_size: int | None) -> Target:
        return bind(
            self._model, self._data, batch_size=batch_size, dtype=self._dtype, device=None
        )


class _Functions(Joint):
    """A `LogDensity`, with functions that draw parameters and data."""

    def __init__(
        self,
        spec: LogDensity,
        prior_sample: PriorSample,
        simulate: Simulate,
        dtype: torch.dtype | None,
    ) -> None:
        self._spec, self._dtype = spec, dtype
        self._prior_sample, self._simulate = prior_sample, simulate
        data = self._call_simulate(self._call_prior(2))
        self._data = data.rebuild(tuple(x[0] for x in data.leaves))
        self.target = self.bind(None)

    def prior(self, num: int) -> Named:
        target = self.target
        return {n: v.to(target.dtype) for n, v in self._call_prior(num).items()}

    def simulate(self, values: Named) -> Leaves:
        leaves = self._call_simulate(values).leaves
        shapes = [tuple(x.shape[1:]) for x in leaves]
        if shapes != [tuple(x.shape) for x in self.target.leaves]:
            raise ValueError(
                f"`simulate` must return the same shapes every time; got {shapes}."
            )
        return tuple(
            cast("`simulate`", x, like.dtype)
            for x, like in zip(leaves, self.target.leaves, strict=True)
        )

    def observed(self, leaves: Leaves) -> Named:
        keys = zip(self.target.data.tensors, self.target.data.labels, leaves, strict=True)
        return {key if isinstance(key, str) else label: x for key, label, x in keys}

    def bind(self, batch_size: int | None) -> Target:
        return bind(
            self._spec, self._data, batch_size=batch_size, dtype=self._dtype, device=None
        )

    def _call_prior(self, num: int) -> Named:
        shapes = {name: value.shape for name, value in self._spec.params.items()}
        drawn = read_values("prior_sample", self._prior_sample(num), shapes, num)
        for name, constraint in self._spec.constraints.items():
            if not bool(torch.as_tensor(constraint.check(drawn[name])).all()):
                raise ValueError(
                    f"`prior_sample` draws values of {name!r} outside {constraint!r}."
                )
        return drawn

    def _call_simulate(self, values: Named) -> Data:
        num = len(next(iter(values.values())))
        returned = self._simulate(nest_names(values))
        try:
            data = Data(returned)
        except ValueError as error:
            raise ValueError(f"`simulate` returned data of no use: {error}") from error
        shapes = [tuple(x.shape) for x in data.leaves]
        if not shapes or any(shape[:1] != (num,) for shape in shapes):
            raise ValueError(
                "`simulate` must return arrays whose first axis is that of the parameters, "
                f"{num}; got shapes {shapes}."
            )
        return data
