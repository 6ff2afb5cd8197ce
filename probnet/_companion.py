"""The package `inference` that probnet imports must be the one installed with it.

An unrelated distribution on the package index carries the same import name. Whoever has both
installed would otherwise meet an `AttributeError` deep inside a model.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

_DISTRIBUTION = "probnet-bayes"


def require_own_inference() -> None:
    """Raise `ImportError` unless `import inference` finds the package of our distribution."""
    try:
        inference = import_module("inference")
    except ImportError as error:
        raise ImportError(
            f"probnet could not import its companion package `inference` "
            f"({_location()}): {error}. Reinstall with `pip install --force-reinstall "
            f"{_DISTRIBUTION}`."
        ) from error
    if getattr(inference, "__distribution__", None) != _DISTRIBUTION:
        raise ImportError(
            f"probnet needs the package `inference` of its own distribution, {_DISTRIBUTION}; "
            f"Python imported another one, {_location()}. Uninstall or rename that one (`pip "
            f"uninstall inference` if it came from the package index), then reinstall "
            f"{_DISTRIBUTION}; or put the folder that holds probnet first on the import path."
        )


def _location() -> str:
    spec = find_spec("inference")
    if spec is None:
        return "not installed"
    return f"found at {spec.origin or list(spec.submodule_search_locations or [])}"
