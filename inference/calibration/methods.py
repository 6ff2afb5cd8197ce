"""What `method` may be: a sampler by its name, or a function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from inference._checks import check_choice, check_options
from inference.samplers import Sampler
from inference.sampling import SAMPLERS


def check_method(method: Any, known: Iterable[str], *, options: bool) -> None:
    """Raise unless `method` is one of `known`, or a function given no `options`."""
    if isinstance(method, str):
        check_choice("method", method, known)
    elif not callable(method):
        raise TypeError(f"`method` must be a name or a function; got {type(method).__name__}.")
    elif options:
        raise TypeError("options belong to a named `method`; give yours inside the function.")


def build_sampler(method: str, options: Mapping[str, Any]) -> Sampler:
    """A stochastic-gradient sampler by its name.

    Raises:
        TypeError: on an option it does not take.
    """
    kind = SAMPLERS[method]
    check_options(f"method {method!r}", options, [f.name for f in fields(kind)])
    return kind(**options)
