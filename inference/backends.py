"""Which library evaluates a target: torch or JAX.

`backend="auto"` takes JAX for a `LogDensity` whose `params` hold JAX arrays and for a model
that reaches a NumPyro site; `"torch"` and `"jax"` insist. JAX is an optional dependency, the
extra `jax`, and is imported only where it is needed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro

from inference._checks import check_choice
from inference.rng import scoped_seed

if TYPE_CHECKING:
    from inference.log_density import LogDensity
    from inference.targets import Target

BACKENDS = ("auto", "torch", "jax")


def choose_backend(backend: str, target: LogDensity | Callable[..., Any], data: Any) -> str:
    """`"torch"` or `"jax"`.

    "auto" is JAX for a `LogDensity` whose parameters are JAX arrays, and for a model that
    reaches a NumPyro site. A model is asked only where NumPyro is loaded already.

    Raises:
        ValueError: on another name, or a `LogDensity` of the other library's arrays.
        ImportError: if JAX or NumPyro is missing.
    """
    check_choice("backend", backend, BACKENDS)
    kind = getattr(target, "backend", None)  # of a LogDensity
    if kind is not None:
        if backend not in ("auto", kind):
            arrays = "JAX arrays" if kind == "jax" else "tensors or NumPy arrays"
            raise ValueError(
                f"backend={backend!r} does not fit a LogDensity whose `params` are {arrays}: "
                f"its functions are evaluated by backend={kind!r}."
            )
        return kind
    if backend == "jax" or "numpyro" not in sys.modules:
        return "torch" if backend == "auto" else backend
    with pyro.get_param_store().scope(), scoped_seed(0):  # it may be a Pyro model
        found = "jax" if load("numpyro_sites").uses_numpyro(target, data) else "torch"
    if backend == "torch" and found == "jax":
        raise ValueError(
            "backend='torch' does not fit a NumPyro model. Leave `backend` out, or write the "
            "model in Pyro."
        )
    return found


def load(module: str) -> Any:
    """A module of `inference.jax_backend`.

    Raises:
        ImportError: if JAX or NumPyro is missing.
    """
    try:
        with scoped_seed(0):  # importing NumPyro moves NumPy's global generator
            return importlib.import_module(f"inference.jax_backend.{module}")
    except ImportError as error:
        raise ImportError(
            f"backend='jax' needs JAX and NumPyro ({error}): pip install 'probnet-bayes[jax]'."
        ) from error


def is_jax_array(value: Any) -> bool:
    """Whether `value` is an array of JAX, which then is loaded already."""
    return "jax" in sys.modules and isinstance(value, sys.modules["jax"].Array)


def to_numpy(value: Any) -> Any:
    """A JAX array as NumPy's, its memory copied; anything else as it is."""
    return np.array(value) if is_jax_array(value) else value


def check_options(target: Target, *, chain_method: str, compile: bool | str = "auto") -> None:
    """Refuse what the JAX backend cannot honour.

    Raises:
        ValueError: on chains one after another, or steps that are not compiled.
    """
    if target.backend != "jax":
        return
    if chain_method == "sequential":
        raise ValueError(
            "chain_method='sequential' does not apply to the JAX backend, which traces the "
            "target once for all chains. Write branches on values with jax.lax.cond or "
            "jnp.where."
        )
    if compile is False:
        raise ValueError(
            "compile=False does not apply to the JAX backend: its steps are always compiled. "
            "Leave `compile` out."
        )
