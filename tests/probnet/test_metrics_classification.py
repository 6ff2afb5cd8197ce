"""Scores of class probabilities, against scikit-learn and hand-made cases."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from probnet import metrics

RNG = np.random.default_rng(0)
P = RNG.dirichlet(np.ones(4), size=300)
LABELS = RNG.integers(4, size=300)
CALIBRATED = (RNG.random((300, 1)) > P.cumsum(1)[:, :-1]).sum(1)  # drawn from P itself


def test_scores_agree_with_scikit_learn():
    assert metrics.accuracy(LABELS, P) == accuracy_score(LABELS, P.argmax(1))
    assert metrics.nll_categorical(LABELS, P) == pytest.approx(log_loss(LABELS, P))
    binary = (LABELS > 1).astype(int)
    expected = brier_score_loss(binary, P[:, 0])
    assert metrics.brier(binary, P[:, 0]) == pytest.approx(expected)


def test_brier_score_is_divided_by_the_number_of_classes():
    p = [[0.7, 0.2, 0.1]]
    assert metrics.brier([0], p) == pytest.approx((0.3**2 + 0.2**2 + 0.1**2) / 3)


def test_expected_calibration_error_by_hand():
    p = torch.tensor([[0.62, 0.38], [0.68, 0.32], [0.1, 0.9], [0.05, 0.95]])
    # bin (0.6, 0.7]: confidence 0.65, accuracy 1/2; bins (0.8, 0.9] and (0.9, 1]: accuracy 1
    expected = (2 * 0.15 + 0.1 + 0.05) / 4
    assert metrics.expected_calibration_error([0, 1, 1, 1], p) == pytest.approx(expected)
    one_bin = abs(3 / 4 - (0.62 + 0.68 + 0.9 + 0.95) / 4)
    by_one = metrics.expected_calibration_error([0, 1, 1, 1], p, num_bins=1)
    assert by_one == pytest.approx(one_bin)


def test_bins_are_closed_on_the_right():
    """Confidences 0.5 and 0.45 share the bin (0.4, 0.5], where their errors cancel."""
    gap = metrics.expected_calibration_error([0, 1], [[0.5, 0.3, 0.2], [0.45, 0.3, 0.25]])
    assert gap == pytest.approx(abs(0.5 - 0.475))


def test_calibration_error_is_small_for_labels_drawn_from_the_forecast_only():
    assert metrics.expected_calibration_error(CALIBRATED, P) < 0.12
    sharpened = P**4 / (P**4).sum(1, keepdims=True)
    assert metrics.expected_calibration_error(CALIBRATED, sharpened) > 0.25


def test_the_true_probabilities_score_best():
    sharpened = P**2 / (P**2).sum(1, keepdims=True)
    for score in (metrics.brier, metrics.nll_categorical):
        assert score(CALIBRATED, P) < score(CALIBRATED, sharpened)


def test_a_class_that_was_excluded_costs_infinitely_much():
    assert metrics.nll_categorical([1], [[1.0, 0.0]]) == np.inf


@pytest.mark.parametrize(
    "score",
    [
        metrics.accuracy,
        metrics.brier,
        metrics.nll_categorical,
        metrics.expected_calibration_error,
    ],
)
def test_bad_arguments_are_named(score):
    with pytest.raises(ValueError, match="`labels` must have shape"):
        score(LABELS[:5], P)
    with pytest.raises(ValueError, match=r"0\.\.3; got 4"):
        score(np.full(300, 4), P)
    with pytest.raises(ValueError, match="softmax"):
        score(LABELS, P - 1)
    with pytest.raises(ValueError, match="`num_bins`"):
        metrics.expected_calibration_error(LABELS, P, num_bins=0)
