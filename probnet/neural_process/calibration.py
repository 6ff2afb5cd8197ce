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
    parts: list[tuple[Any, Any, Tensor]] = []
    for chunk in tasks.to(torch.float64).chunks(batch_size):
        posterior = trained.condition(chunk.xc, chunk.yc, mask=chunk.mask_c)
        laws = None
        if network.sampled:
            laws = posterior.function_laws(chunk.xt, num_functions=num_functions, seed=seed)
        base = posterior.base(chunk.xt).laws if network.conditional else None
        parts.append((laws, base, chunk.yt))
    masks = [chunk.mask_t for chunk in tasks.chunks(batch_size)]
    found = Calibration()
    if network.conditional:

        def base_score(logs: list[float]) -> float:
            candidate = Calibration(base=math.exp(logs[0]))
            laws = [candidate.base_law(base) for _, base, _ in parts]
            return _score(laws, parts, masks)

        found = found._replace(base=_maximise(base_score, 1)[0])
    if network.sampled:
        free = 2 if network.conditional else 1

        def function_score(logs: list[float]) -> float:
            candidate = Calibration(1.0, *map(math.exp, logs))
            laws = [candidate.function_law(laws, lambda b=base: b) for laws, base, _ in parts]
            return _score(laws, parts, masks)

        noise, *functions = _maximise(function_score, free)
        found = found._replace(noise=noise, functions=functions[0] if functions else 1.0)
    return found


def _score(laws: list[Any], parts: list[Any], masks: list[Tensor]) -> float:
    """Mean over targets of log (1/K) Σ_k p_k(y)."""
    total = 0.0
    for law, (_, _, y), mask in zip(laws, parts, masks, strict=True):
        logs = law.log_prob(y).sum(-1)
        total += float((logs.logsumexp(0) - math.log(len(logs)))[mask].sum())
    return total / sum(int(mask.sum()) for mask in masks)


def _maximise(score: Callable[[list[float]], float], count: int) -> list[float]:
    """Factors of the highest score, each within a tenth and ten."""
    result = minimize(
        lambda logs: -score(list(logs)),
        np.zeros(count),
        method="Nelder-Mead",
        bounds=[(-_LOG_BOUND, _LOG_BOUND)] * count,
        options={"xatol": 1e-3, "fatol": 1e-6, "initial_simplex": _simplex(count)},
    )
    return [math.exp(value) for value in result.x]


def _simplex(count: int) -> np.ndarray:
    return np.concatenate([np.zeros((1, count)), 0.2 * np.eye(count)])
