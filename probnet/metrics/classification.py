"""Scores of class probabilities.

`probabilities` has shape `(n, C)`, rows summing to one; or `(n,)`, the probability of class 1
of two. For a Bayesian model it is the mean over posterior draws of the class probabilities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference._checks import check_integer
from probnet._checks import Values, check_class_probabilities, check_labels, check_shape


def accuracy(labels: Values, probabilities: Values) -> float:
    """Share of cases whose most probable class is the true one (higher is better).

    Args:
        labels: true classes 0..C-1, shape `(n,)`.
        probabilities: class probabilities; of tied classes the first counts.
    """
    truth, p = _labels_and_probabilities(labels, probabilities)
    return float(np.mean(p.argmax(-1) == truth))


def nll_categorical(labels: Values, probabilities: Values) -> float:
    """Mean negative log probability of the true class, in nats; inf if one was given 0.

    Args:
        labels: true classes 0..C-1, shape `(n,)`.
        probabilities: class probabilities.
    """
    truth, p = _labels_and_probabilities(labels, probabilities)
    with np.errstate(divide="ignore"):
        return float(-np.mean(np.log(p[np.arange(len(p)), truth])))


def brier(labels: Values, probabilities: Values) -> float:
    """Brier score, divided by the number of classes: mean of (1/C) Σ_c (1[y = c] - p_c)².

    With two classes this is the usual (1 - p_y)², in [0, 1]. The form without 1/C is C times
    as large.

    Args:
        labels: true classes 0..C-1, shape `(n,)`.
        probabilities: class probabilities.
    """
    truth, p = _labels_and_probabilities(labels, probabilities)
    return float(np.mean((np.eye(p.shape[1])[truth] - p) ** 2))


def expected_calibration_error(
    labels: Values, probabilities: Values, *, num_bins: int = 10
) -> float:
    """Expected calibration error: Σ_bins (n_b / n) abs(accuracy_b - confidence_b).

    Bins are of equal width in the confidence (the largest class probability), closed on the
    right. Source: Guo et al. (ICML 2017).

    Args:
        labels: true classes 0..C-1, shape `(n,)`.
        probabilities: class probabilities.
        num_bins: at least 1.
    """
    check_integer("num_bins", num_bins, 1)
    truth, p = _labels_and_probabilities(labels, probabilities)
    confidence, hit = p.max(-1), p.argmax(-1) == truth
    inner_edges = np.linspace(0, 1, num_bins + 1)[1:-1]
    index = np.digitize(confidence, inner_edges, right=True)
    gap = np.bincount(index, weights=hit - confidence, minlength=num_bins)
    return float(np.abs(gap).sum() / len(p))


def _labels_and_probabilities(
    labels: Values, probabilities: Values
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    p = check_class_probabilities("probabilities", probabilities)
    truth = check_labels("labels", labels, p.shape[1])
    check_shape("labels", truth.shape, p.shape[:1], "one class per row of `probabilities`")
    return truth, p
