"""What the adapters share: labels as numbers, and seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_random_state

Array = NDArray[Any]


def class_numbers(name: str, targets: Any) -> tuple[Array, Array]:
    """The distinct labels, and every case's number among them.

    Args:
        name: of the estimator, for the message.
        targets: labels `(n,)` of any type.

    Raises:
        ValueError: if the targets are no classes, or all the same.
    """
    check_classification_targets(targets)
    classes, labels = np.unique(targets, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"{name} needs at least two classes; got 1 class: {classes[0]!r}.")
    return classes, labels


def seed_of(random_state: Any) -> int:
    """A seed from scikit-learn's `random_state`; `None` is 0, so that fits are reproducible."""
    if random_state is None:
        return 0
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
