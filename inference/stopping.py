"""When a run has enough draws: `sample(..., until=Until(ess=400))`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from inference import diagnostics
from inference._checks import check_options, check_positive
from inference.errors import warn

if TYPE_CHECKING:
    from inference.plan import Store

_FIRST_CHECK = 100
_GROWTH = 1.2
_DEFAULT_RHAT = 1.01


@dataclass(frozen=True)
class Until:
    """A goal; `num_samples` becomes the most draws a chain may have.

    ESS and R-hat are looked at after 100 draws a chain and then whenever their number has grown
    by a fifth, so that a run without a time limit is reproducible.

    Args:
        ess: smallest bulk effective sample size over all scalars, chains together; > 0.
        rhat: largest R-hat over all scalars, > 1; 1.01 where `ess` is given alone.
        seconds: time after which the run ends whatever it has reached, > 0.

    Raises:
        ValueError: on a goal out of range, or none at all.
    """

    ess: float | None = None
    rhat: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = {n: getattr(self, n) for n in ("ess", "rhat", "seconds")}
        if all(value is None for value in given.values()):
            raise ValueError("`until` must give at least one of ess, rhat and seconds.")
        for name, value in given.items():
            if value is not None:
                check_positive(f"until.{name}", value)
        if self.rhat is not None and self.rhat <= 1:
            raise ValueError(f"`until.rhat` must be above 1; got {self.rhat}.")

    def enough(self, draws: Store, before: int, seconds: float) -> int | None:
        """The number of draws a chain at which the goal is met, None if it is not.

        Args:
            draws: what is stored.
            before: how many draws a chain there were at the last call.
            seconds: since the run began.
        """
        if self.ess is not None or self.rhat is not None:
            count = _FIRST_CHECK
            while count <= draws.filled:
                if count > before and self._converged(draws.finished(count)):
                    return count
                count = int(count * _GROWTH)
        if self.seconds is not None and seconds >= self.seconds and draws.filled:
            return draws.filled
        return None

    def _converged(self, draws: dict[str, np.ndarray]) -> bool:
        several = next(iter(draws.values())).shape[0] > 1
        limit = self.rhat or _DEFAULT_RHAT
        for values in draws.values():
            finite = values[np.isfinite(values).all(axis=tuple(range(1, values.ndim)))]
            if several and not bool((diagnostics.rhat(finite) <= limit).all()):
                return False
            if self.ess is not None and not bool((diagnostics.ess(finite) >= self.ess).all()):
                return False
        return True

    def warn_unreached(self, num_samples: int) -> None:
        """Say that the run ended short of its goal."""
        warn(
            f"the run ended at its {num_samples} draws a chain before it reached {self}. Raise "
            "`num_samples`, or choose larger steps (inference.suggest_step_size)."
        )


def make_until(until: Any) -> Until | None:
    """An `Until`, from one or from a dict of its arguments.

    Raises:
        TypeError: on anything else, or an unknown goal.
    """
    if until is None or isinstance(until, Until):
        return until
    if not isinstance(until, dict):
        raise TypeError(
            "`until` must be an inference.Until or a dict with ess, rhat or seconds; got "
            f"{until!r}."
        )
    check_options("`until`", until, [f.name for f in fields(Until)])
    return Until(**until)
