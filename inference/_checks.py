"""Checks of arguments: the message names the argument, what was expected, what came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check_positive(name: str, value: Any) -> float:
    """Return `value` as a float, or raise unless it is a finite number above zero."""
    number = _real(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"`{name}` must be a finite number > 0; got {value!r}.")
    return number


def check_nonnegative(name: str, value: Any) -> float:
    """Return `value` as a float, or raise unless it is a finite number, zero included."""
    number = _real(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"`{name}` must be a finite number >= 0; got {value!r}.")
    return number


def check_fraction(name: str, value: Any, *, closed: bool = True) -> float:
    """`value` as a float; raise unless it lies in [0, 1], or in (0, 1) if not closed."""
    number = _real(name, value)
    inside = 0 <= number <= 1 if closed else 0 < number < 1
    if not inside:
        raise ValueError(
            f"`{name}` must lie in {'[0, 1]' if closed else '(0, 1)'}; got {value!r}."
        )
    return number


def check_integer(name: str, value: Any, minimum: int) -> int:
    """Return `value` as an int, or raise unless it is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be an integer; got {value!r} ({type(value).__name__}).")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}; got {int(value)}.")
    return int(value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value`, or raise unless it is one of `choices`, naming the nearest of them."""
    known = sorted(choices)
    if value not in known:
        near = get_close_matches(str(value), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`{name}` must be one of {known}; got {value!r}.{hint}")
    return str(value)


def check_options(
    owner: str, options: Mapping[str, Any], known: Iterable[str], also: Iterable[str] = ()
) -> None:
    """Raise `TypeError` on any option that `owner` does not take, listing those it does.

    Args:
        owner: what takes the options, for the message.
        options: by name.
        known: names that are taken.
        also: further names that may have been meant.
    """
    allowed = sorted(known)
    for name in options:
        if name not in allowed:
            near = get_close_matches(name, [*allowed, *also], n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise TypeError(f"{owner} takes no option `{name}`; it takes {allowed}.{hint}")


def check_finite(name: str, tensor: Tensor) -> Tensor:
    """Return `tensor`, or raise on NaN or infinity with their number and the first index."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    bad = ~torch.isfinite(tensor)
    count = int(bad.sum())
    if count:
        first = tuple(int(i) for i in bad.nonzero()[0])
        value = tensor[first].item()
        raise ValueError(
            f"`{name}` holds {count} non-finite value{'s' if count > 1 else ''} "
            f"(first: {value} at index {first}). Remove or impute these rows first."
        )
    return tensor


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number; got {value!r} ({type(value).__name__}).")
    return float(value)
