"""What the measurements of a run's bias say together, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

_ALPHA = 0.01  # chance of a false alarm in each measurement
_SLACK = 1.5  # a run at the accepted level itself must pass, one at twice the level must not
_GRADIENT_SLACK = 0.05
_KINETIC_SLACK = 0.1
_SMALLEST_RATIO = 0.05
_RESOLUTION = {"paired_variance": 0.1, "stein": 0.25}

_SCALE = (
    "multiply the log-likelihood of a minibatch by N/n, or give `log_prior` and `log_lik`, "
    "for which that is done; check `num_data`"
)
_STEP = "take a smaller `step_size`"
_NOISE = "take a larger `batch_size`, `control_variates`, or a smaller `step_size`"
_COLD = (
    "the injected noise is too small: lower `noise_correction` or `gradient_variance`, check "
    "the sampler's noise"
)
_WIDE = "lengthen the warm-up, and check `num_data`"


@dataclass(frozen=True)
class Estimate:
    """Means over independent units, with their standard errors.

    Attributes:
        units: one row per unit, one column per direction, (units, k).
        of_ratio: whether they are means of a positive ratio less one: its spread goes with its
            size, so that a small one looks more certain than it is.
    """

    units: np.ndarray
    of_ratio: bool = False

    @property
    def value(self) -> np.ndarray:
        """By direction, (k,)."""
        return self.units.mean(0)

    @property
    def standard_error(self) -> np.ndarray:
        """By direction, (k,)."""
        return self.units.std(0, ddof=1) / len(self.units) ** 0.5

    @property
    def mean(self) -> Estimate:
        """Over all directions, (units, 1)."""
        return Estimate(self.units.mean(1, keepdims=True), self.of_ratio)

    @property
    def half_width(self) -> np.ndarray:
        """Of intervals that hold for all directions together, with 99 %, (k,)."""
        count, k = self.units.shape
        error = self.standard_error
        if self.of_ratio:  # what it would be at a ratio of one
            error = error / (1 + self.value).clip(_SMALLEST_RATIO, 1.0)
        return error * stats.t.ppf(1 - _ALPHA / (2 * k), count - 1)

    def beyond(self, tolerance: float) -> bool:
        """Whether any direction, or their mean, lies significantly outside ±`tolerance`."""
        return any(
            bool((np.abs(e.value) - e.half_width > tolerance).any()) for e in (self, self.mean)
        )

    def report(self) -> dict[str, float]:
        """The mean over directions and the direction furthest from zero, JSON-able."""
        overall = self.mean
        worst = int((np.abs(self.value) - self.half_width).argmax())
        return {
            "mean": float(overall.value[0]),
            "mean_standard_error": float(overall.standard_error[0]),
            "worst": float(self.value[worst]),
            "worst_standard_error": float(self.standard_error[worst]),
            "half_width": float(self.half_width.max()),
        }


@dataclass(frozen=True)
class Measurements:
    """What was measured of a run; None where it could not be.

    Attributes:
        paired_variance: relative error of the variance that step and minibatches make.
        paired_mean: error of the mean that they make, in standard deviations.
        stein: relative error of the variance as the full-data gradient sees it.
        gradient: mean minibatch gradient along that of all the data, less one.
        kinetic: kinetic temperature relative to its stationary value, less one.
        predicted: inflation of the variance by direction that theory predicts, (k,).
        predicted_by_noise: the part of it that minibatches make, (k,).
    """

    paired_variance: Estimate | None
    paired_mean: Estimate | None
    stein: Estimate
    gradient: Estimate | None
    kinetic: Estimate | None
    predicted: np.ndarray | None
    predicted_by_noise: np.ndarray | None


def judge(found: Measurements, level: float) -> dict[str, Any]:
    """Verdict, reasons and remedy, with every figure; JSON-able.

    Args:
        found: the measurements.
        level: relative error of a variance that is accepted.
    """
    complaints = _complaints(found, _SLACK * level)
    unclear = _unclear(found)
    verdict = "biased" if complaints else "undecided" if unclear else "ok"
    remedies = dict.fromkeys(remedy for _, remedy in complaints)
    if verdict == "undecided":
        remedies = {"lengthen the run, or the check (`inference.BiasCheck`)": None}
    figures: dict[str, Any] = {
        name: None if estimate is None else estimate.report()
        for name, estimate in vars(found).items()
        if not name.startswith("predicted")
    }
    figures["predicted"] = None
    if found.predicted is not None and found.predicted_by_noise is not None:
        worst = int(np.abs(found.predicted).argmax())
        figures["predicted"] = {
            "mean": float(found.predicted.mean()),
            "worst": float(found.predicted[worst]),
            "worst_by_minibatches": float(found.predicted_by_noise[worst]),
        }
    return {
        "verdict": verdict,
        "level": level,
        "reasons": [reason for reason, _ in complaints] or (unclear if unclear else []),
        "remedy": "; ".join(remedies),
        **figures,
    }


def _complaints(found: Measurements, tolerance: float) -> list[tuple[str, str]]:
    """Reasons why the run is biased, each with its remedy."""
    if found.gradient is not None and found.gradient.beyond(_GRADIENT_SLACK):
        slope, error = 1 + found.gradient.value[0], found.gradient.standard_error[0]
        reason = (
            f"minibatch gradients are on average {slope:.3g} ± {error:.1g} times the gradient "
            "of all the data"
        )
        return [(reason, _SCALE)]  # it explains whatever else is wrong
    complaints = list[tuple[str, str]]()
    cold = found.kinetic is not None and found.kinetic.value[0] < 0
    if cold and found.kinetic is not None and found.kinetic.beyond(_KINETIC_SLACK):
        ratio = 1 + found.kinetic.value[0]
        complaints.append(
            (f"the kinetic temperature is {ratio:.3g} times its stationary value", _COLD)
        )
    by_step = _NOISE if _noise_dominates(found) else _STEP
    for name, what in (
        ("paired_variance", "the step and minibatches change a variance by {}"),
        ("paired_mean", "the step and minibatches shift a mean by {} of its sd"),
    ):
        estimate: Estimate | None = getattr(found, name)
        if estimate is not None and estimate.beyond(tolerance):
            complaints.append((what.format(_percent(estimate)), by_step))
    if not complaints and _predicted_beyond(found, tolerance):
        predicted = np.abs(found.predicted).max() if found.predicted is not None else 0.0
        complaints.append(
            (
                f"theory predicts that a variance is off by {100 * predicted:.2g} %, and the "
                "paired runs agree",
                by_step,
            )
        )
    if found.stein.beyond(tolerance):
        remedy = _COLD if found.stein.report()["worst"] < 0 else _WIDE
        known = [remedy for _, remedy in complaints]
        reason = f"Stein's identity finds a variance off by {_percent(found.stein)}"
        complaints.append((reason, known[0] if known else remedy))
    return complaints


def _unclear(found: Measurements) -> list[str]:
    """Measurements that could not have seen a bias that matters."""
    unclear = list[str]()
    for name, wanted in _RESOLUTION.items():
        estimate: Estimate | None = getattr(found, name)
        if estimate is None:
            unclear.append(f"{name}: not measured")
            continue
        width = float(
            (estimate if name.startswith("paired") else estimate.mean).half_width.max()
        )
        if not width < wanted:
            unclear.append(f"{name}: known to ±{100 * width:.2g} % only")
    return unclear


def _predicted_beyond(found: Measurements, tolerance: float) -> bool:
    """Whether a prediction beyond the tolerance lies within what was measured."""
    if found.predicted is None or found.paired_variance is None:
        return False
    measured = found.paired_variance
    if found.predicted.shape != measured.value.shape:
        return False
    agrees = np.abs(measured.value - found.predicted) <= measured.half_width
    return bool((agrees & (np.abs(found.predicted) > tolerance)).any())


def _noise_dominates(found: Measurements) -> bool:
    if found.predicted is None or found.predicted_by_noise is None:
        return False
    worst = int(np.abs(found.predicted).argmax())
    return bool(2 * found.predicted_by_noise[worst] > np.abs(found.predicted[worst]))


def _percent(estimate: Estimate) -> str:
    figures = estimate.report()
    worst, error = 100 * figures["worst"], 100 * figures["worst_standard_error"]
    return f"{worst:+.2g} ± {error:.1g} % in the worst direction"
