"""The package's own exceptions and warnings."""

from __future__ import annotations


class InferenceWarning(UserWarning):
    """Something about a run that makes its draws less trustworthy."""


class InitError(RuntimeError):
    """No starting point with a finite log density and gradient was found."""


class AllChainsDivergedError(RuntimeError):
    """Every chain met a non-finite log density or gradient; no usable draw remains."""
