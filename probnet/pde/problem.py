"""The equation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from inference._checks import check_nonnegative
from probnet.pde.functions import Function, values_at
from probnet.pde.unknown import Unknown, parameters

MultiIndex: TypeAlias = tuple[int, ...]
"""Orders of differentiation, one per axis: (2, 0) is ∂²/∂x² in two dimensions."""


Coefficient: TypeAlias = Function | Unknown

_AXIS_NAMES = ("x", "y", "z")


@dataclass(frozen=True, eq=False)
class PDE:
    """Σ_α a_α(x) ∂^α u + N(u) = f on a box.

    Make it by `PDE.linear`, `PDE.semilinear` or `PDE.divergence_form`.

    Attributes:
        domain: one (low, high) per axis.
        terms: a_α by multi-index.
        source: f.
        nonlinearity: N, a function of u in torch operations; or `None`.
        axis_names: names of the axes, which also name the faces: `"x_min"`, `"x_max"`, ...
        source_noise_sd: standard deviation of the noise of f; 0 if f is exact.
    """

    domain: tuple[tuple[float, float], ...]
    terms: Mapping[MultiIndex, Coefficient]
    source: Coefficient
    nonlinearity: Callable[[Tensor], Tensor] | None = None
    axis_names: tuple[str, ...] = field(default=())
    source_noise_sd: float = 0.0

    def __post_init__(self) -> None:
        """Check the description; functions are called later, on a grid."""
        box = _check_domain(self.domain)
        names = tuple(self.axis_names) or _AXIS_NAMES[: len(box)]
        if len(names) != len(box) or len(set(names)) < len(names):
            raise ValueError(
                f"`axis_names` must give {len(box)} different names, one per axis of "
                f"`domain`; got {names}."
            )
        object.__setattr__(self, "domain", box)
        object.__setattr__(self, "axis_names", names)
        object.__setattr__(self, "terms", _check_terms(self.terms, len(box)))
        check_nonnegative("source_noise_sd", self.source_noise_sd)

    @classmethod
    def linear(
        cls,
        domain: Sequence[Sequence[float]],
        terms: Mapping[Any, Coefficient],
        source: Coefficient,
        **options: Any,
    ) -> PDE:
        """A linear equation.

        Args:
            domain: one (low, high) per axis; one to three axes.
            terms: coefficient by multi-index; numbers, arrays on the solver's grid, functions
                or `Unknown`.
            source: f, likewise.
            **options: `axis_names` and `source_noise_sd`.

        Raises:
            ValueError: on an empty or unbounded domain, orders above two, or a multi-index of
                the wrong length.

        Example:
            >>> PDE.linear([(0, 1)], {(2,): 1.0}, source=lambda x: x).order
            2
        """
        return cls(tuple(domain), terms, source, **options)  # pyright: ignore[reportArgumentType] - checked and converted there

    @classmethod
    def semilinear(
        cls,
        domain: Sequence[Sequence[float]],
        terms: Mapping[Any, Coefficient],
        nonlinearity: Callable[[Tensor], Tensor],
        source: Coefficient,
        **options: Any,
    ) -> PDE:
        """A linear operator plus N(u), whose derivative is taken by automatic differentiation.

        Args:
            domain: as for `linear`.
            terms: as for `linear`.
            nonlinearity: N; elementwise, in torch operations.
            source: as for `linear`.
            **options: as for `linear`.
        """
        if not callable(nonlinearity):
            raise TypeError(f"`nonlinearity` must be a function of u; got {nonlinearity!r}.")
        return cls(tuple(domain), terms, source, nonlinearity, **options)  # pyright: ignore[reportArgumentType] - as above

    @classmethod
    def divergence_form(
        cls,
        domain: Sequence[Sequence[float]],
        diffusion: Function,
        source: Coefficient,
        *,
        reaction: Coefficient = 0.0,
        **options: Any,
    ) -> PDE:
        """div(a grad u) + c u = f, written out as a Δu + grad a · grad u + c u.

        Args:
            domain: as for `linear`.
            diffusion: a > 0, a number or a function in torch operations, whose gradient is
                taken by automatic differentiation.
            source: as for `linear`.
            reaction: c.
            **options: as for `linear`, and `nonlinearity`.
        """
        dim = len(domain)
        terms: dict[MultiIndex, Coefficient] = {(0,) * dim: reaction}
        for axis in range(dim):
            unit = [int(i == axis) for i in range(dim)]
            terms[tuple(2 * i for i in unit)] = diffusion
            if callable(diffusion):
                terms[tuple(unit)] = _gradient(diffusion, axis)
        return cls(tuple(domain), terms, source, **options)  # pyright: ignore[reportArgumentType] - as above

    @property
    def dim(self) -> int:
        """Number of axes."""
        return len(self.domain)

    @property
    def order(self) -> int:
        """The largest total order among the terms."""
        return max(sum(index) for index in self.terms)

    @property
    def unknowns(self) -> dict[str, Unknown]:
        """The unknown scalars, by name."""
        found: dict[str, Unknown] = {}
        for entry in (*self.terms.values(), self.source):
            if isinstance(entry, Unknown):
                known = found.setdefault(entry.name, entry)
                same = type(known.prior) is type(entry.prior)
                if not same or parameters(known.prior) != parameters(entry.prior):
                    raise ValueError(f"Unknown {entry.name!r} is given two different priors.")
        return found

    def axis_order(self, axis: int) -> int:
        """The largest order of differentiation along one axis."""
        return max(index[axis] for index in self.terms)

    def coefficients(
        self, points: Sequence[Tensor], unknown: Mapping[str, Tensor] | None = None
    ) -> dict[MultiIndex, Tensor]:
        """Every a_α at points, of the points' shape; without those that vanish everywhere.

        Args:
            points: coordinates, one tensor per axis.
            unknown: values of the `Unknown`s.
        """
        found: dict[MultiIndex, Tensor] = {}
        for index, entry in self.terms.items():
            value = _evaluate(f"terms[{index}]", entry, points, unknown)
            if bool((value != 0).any()):
                found[index] = value
        return found

    def source_values(
        self, points: Sequence[Tensor], unknown: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """F at points, of the points' shape."""
        return _evaluate("source", self.source, points, unknown)


def nonlinear_part(pde: PDE, u: Tensor) -> tuple[Tensor, Tensor]:
    """N(u) and N'(u), elementwise.

    Raises:
        ValueError: if N is not elementwise or not finite at u.
    """
    if pde.nonlinearity is None:
        return torch.zeros_like(u), torch.zeros_like(u)
    leaf = u.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = pde.nonlinearity(leaf)
        if not isinstance(value, Tensor) or value.shape != u.shape:
            raise ValueError(
                "`nonlinearity` must return a tensor of the shape of u, one value per point; "
                f"got {getattr(value, 'shape', type(value).__name__)} for {tuple(u.shape)}."
            )
        if not value.requires_grad:
            return value.detach(), torch.zeros_like(u)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    if not bool(torch.isfinite(value).all() and torch.isfinite(slope).all()):
        raise ValueError("`nonlinearity` or its derivative is not finite at an iterate.")
    return value.detach(), slope


def _evaluate(
    name: str,
    entry: Coefficient,
    points: Sequence[Tensor],
    unknown: Mapping[str, Tensor] | None,
) -> Tensor:
    if not isinstance(entry, Unknown):
        return values_at(name, entry, points)
    if unknown is None or entry.name not in unknown:
        raise ValueError(
            f"`{name}` is the Unknown {entry.name!r}: pass `observations` and method='nuts' to "
            f"`fit`, which infers it."
        )
    return unknown[entry.name] * values_at(f"{name}.times", entry.times, points)


def _gradient(function: Callable[..., Any], axis: int) -> Callable[..., Tensor]:
    def slope(*points: Tensor) -> Tensor:
        leaves = [p.detach().clone().requires_grad_() for p in points]
        with torch.enable_grad():
            value = function(*leaves)
            if not isinstance(value, Tensor) or not value.requires_grad:
                return torch.zeros_like(points[0])
            (found,) = torch.autograd.grad(value.sum(), leaves[axis], materialize_grads=True)
        return found

    return slope


def _check_domain(domain: Any) -> tuple[tuple[float, float], ...]:
    box = tuple(tuple(float(end) for end in axis) for axis in domain)
    if not 1 <= len(box) <= 3:
        raise ValueError(
            f"`domain` must have one to three axes, each (low, high); got {len(box)}."
        )
    for axis in box:
        if len(axis) != 2 or not all(map(math.isfinite, axis)) or axis[0] >= axis[1]:
            raise ValueError(
                f"`domain` must hold pairs (low, high) of finite numbers, low < high; got "
                f"{axis}."
            )
    return box  # pyright: ignore[reportReturnType] - two ends each, just checked


def _check_terms(terms: Mapping[Any, Coefficient], dim: int) -> dict[MultiIndex, Coefficient]:
    checked: dict[MultiIndex, Coefficient] = {}
    for key, value in terms.items():
        index = (key,) if isinstance(key, int) else tuple(key)
        whole = all(isinstance(order, int) and order >= 0 for order in index)
        if len(index) != dim or not whole or sum(index) > 2:
            raise ValueError(
                f"`terms` must be keyed by {dim} orders of differentiation >= 0, one per axis, "
                f"of sum at most 2, such as {(2,) + (0,) * (dim - 1)}; got {key!r}."
            )
        checked[index] = value
    if not any(sum(index) for index in checked):
        raise ValueError(
            "`terms` must differentiate u somewhere; an equation of order zero is solved "
            "pointwise and needs no solver."
        )
    return checked
