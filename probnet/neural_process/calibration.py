"""Scales that make the uncertainty of a trained process that of validation tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from probnet.neural_process.heads import location, scaled

if TYPE_CHECKING:
    from probnet.datasets import TaskBatch
    from probnet.neural_process.trained import TrainedProcess

_LOG_BOUND = math.log(10.0)  # a network that is off by more is not to be mended by a scale


class Calibration(NamedTuple):
    """Factors of a trained process's uncertainty; 1 changes nothing.

    Attributes:
        base: of the noise of p_0(y | x).
        noise: of the noise of p_k(y | x) under a function.
        functions: of what functions differ from the base prediction by, μ_k - μ_0; 1 for
            models without a base prediction.
    """

    base: float = 1.0
    noise: float = 1.0
    functions: float = 1.0

    def base_law(self, law: Any) -> Any:
        """p_0 of a head's law."""
        return law if self.base == 1 else scaled(law, location(law), self.base)

    def function_law(self, law: Any, base: Callable[[], Any]) -> Any:
        """p_k of a head's law; `base` gives that of the network's p_0, if it is needed."""
        centre = location(law)
        if self.functions != 1:
            start = location(base())
            centre = start + self.functions * (centre - start)
        return law if self == Calibration() else scaled(law, centre, self.noise)


class _Predictions(NamedTuple):
    """What a trained process says of some tasks: p_k, p_0 (None where there are none), y."""

    functions: Any
    base: Any
    y: Tensor
    mask: Tensor

    def log_density(self, laws: Any) -> Tensor:
        """Sum over targets of log (1/K) Σ_k p_k(y)."""
        logs = laws.log_prob(self.y).sum(-1)
        return (logs.logsumexp(0) - math.log(len(logs)))[self.mask].sum()


def calibrate(
    trained: TrainedProcess, tasks: TaskBatch, *, num_functions: int, batch_size: int, seed: int
) -> Calibration:
    """The factors with the highest pointwise log-likelihood of the tasks' targets.

    Args:
        trained: as the training left it.
        tasks: that it was not trained on.
        num_functions: K.
        batch_size: tasks at once.
        seed: of the functions.
    """
    network = trained.network
    parts: list[_Predictions] = []
    for chunk in tasks.to(torch.float64).chunks(batch_size):
        posterior = trained.condition(chunk.xc, chunk.yc, mask=chunk.mask_c)
        functions = base = None
        if network.sampled:
            functions = posterior.function_laws(
                chunk.xt, num_functions=num_functions, seed=seed
            )
        if network.conditional:
            base = posterior.base(chunk.xt).laws
        parts.append(_Predictions(functions, base, chunk.yt, chunk.mask_t))
    num_targets = int(tasks.mask_t.sum())

    def base_score(factors: list[float]) -> float:
        candidate = Calibration(*factors)
        logs = [part.log_density(candidate.base_law(part.base)) for part in parts]
        return float(sum(logs)) / num_targets

    def function_score(factors: list[float]) -> float:
        candidate = Calibration(1.0, *factors)
        logs = [
            part.log_density(candidate.function_law(part.functions, lambda p=part: p.base))
            for part in parts
        ]
        return float(sum(logs)) / num_targets

    base_factors = _maximise(base_score, 1) if network.conditional else [1.0]
    function_factors: list[float] = []
    if network.sampled:
        function_factors = _maximise(function_score, 2 if network.conditional else 1)
    return Calibration(*base_factors, *function_factors)


def _maximise(score: Callable[[list[float]], float], count: int) -> list[float]:
    """Factors of the highest score, each within a tenth and ten."""
    result = minimize(
        lambda logs: -score([math.exp(value) for value in logs]),
        np.zeros(count),
        method="Nelder-Mead",
        bounds=[(-_LOG_BOUND, _LOG_BOUND)] * count,
        options={"xatol": 1e-3, "fatol": 1e-6, "initial_simplex": _simplex(count)},
    )
    return [math.exp(value) for value in result.x]


def _simplex(count: int) -> np.ndarray:
    return np.concatenate([np.zeros((1, count)), 0.2 * np.eye(count)])
