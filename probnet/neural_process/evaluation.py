"""Scores of a trained process on tasks, beside those of the exact Bayes predictive.

Log-likelihoods are nats per point. *Pointwise* is the mean over points of log p(y_i), *joint*
is log p(y_1, ..., y_m) divided by m; the two are never mixed. Models are compared paired, on
the same tasks; standard errors are over tasks, since points of one task depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Normal

from inference.errors import warn
from inference.rng import scoped_seed
from probnet.datasets import TaskBatch
from probnet.metrics import crps_ensemble, crps_mixture
from probnet.neural_process.function_distance import NUM_POINTS, function_distances
from probnet.neural_process.oracle import ConditionedOracle

if TYPE_CHECKING:
    from probnet.neural_process.posterior import NeuralProcessPosterior

_LEVELS = (0.5, 0.8, 0.95)
_COLLAPSED = 1e-3  # share of the predictive sd below which functions count as identical
_CRPS_DRAWS = 200


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Means over tasks, with standard errors over tasks where it says so.

    Attributes:
        scores: by name: `target_pointwise`, `context_pointwise`, `task_pointwise` (nats per
            point); for models with functions `target_joint`, `task_joint`, and `function_sd`,
            the mean over points of sd_k μ_k; with an oracle `oracle_pointwise`,
            `oracle_joint` of the targets, and `gap_pointwise`, `gap_joint`, oracle minus model;
            with `oracle()` and one-dimensional inputs `function_w2` and `function_w2_exact`
            at 50 points, see `function_distances`.
        standard_errors: of the scores.
        coverage: share of targets inside central intervals, by level.
        pit_ks: Kolmogorov-Smirnov distance of the targets' PIT values from uniform.
        crps: of the targets, in units of y.
        martingale_defect: mean over targets of abs(mean_k μ_k - μ_0) / predictive sd; `None`
            for models without functions or without a base prediction.
        function_share: mean of sd_k μ_k / predictive sd; `None` without functions.
        collapsed: whether all functions are the same.
        per_task: the scores of every task.
    """

    scores: Mapping[str, float]
    standard_errors: Mapping[str, float]
    coverage: Mapping[float, float]
    pit_ks: float
    crps: float
    martingale_defect: float | None
    function_share: float | None
    collapsed: bool
    per_task: Mapping[str, Tensor] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the scores per task, JSON-able."""
        values = asdict(self)
        del values["per_task"]
        return {**values, "coverage": {str(k): v for k, v in self.coverage.items()}}


def evaluate(
    condition: Callable[[TaskBatch], NeuralProcessPosterior],
    tasks: TaskBatch,
    *,
    oracle: Any,
    num_functions: int,
    batch_size: int,
    seed: int,
) -> Evaluation:
    """Score the posteriors that `condition` makes of tasks; see `TrainedProcess.evaluate`."""
    rows: list[dict[str, Tensor]] = []
    points: list[_TargetPoints] = []
    for chunk in tasks.to(torch.float64).chunks(batch_size):
        posterior = condition(chunk)
        sampled = posterior.trained.network.sampled
        law: Any = (
            posterior.predict(chunk.x, num_functions=num_functions, seed=seed)
            if sampled
            else posterior.base(chunk.x)
        )
        scores = _likelihoods(law, chunk, sampled=sampled)
        if oracle is not None:
            exact = oracle.condition(chunk.xc, chunk.yc, mask=chunk.mask_c)
            scores |= _oracle_scores(exact, chunk, scores)
            if sampled and isinstance(exact, ConditionedOracle) and chunk.x.shape[-1] == 1:
                scores |= function_distances(posterior, exact, _grid(tasks), seed=seed)
        if sampled:
            spread = law.laws.mean.std(0, correction=0).mean(-1)
            scores["function_sd"] = _mean(spread, chunk.mask)
        rows.append(scores)
        points.append(_at_targets(law, posterior, chunk))
    joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    return _summary(joined, points)


class _TargetPoints(NamedTuple):
    """What is measured at single targets, flat over the targets of a chunk of tasks."""

    pit: Tensor
    crps: float
    defect: Tensor | None
    share: Tensor | None


def _likelihoods(law: Any, tasks: TaskBatch, *, sampled: bool) -> dict[str, Tensor]:
    """Log-likelihoods of every task, `(B,)` each."""
    logs = law.laws.log_prob(tasks.y).sum(-1)  # of all coordinates of a point together
    n = tasks.xc.shape[1]
    parts = {
        "context": (logs[..., :n], tasks.mask_c),
        "target": (logs[..., n:], tasks.mask_t),
        "task": (logs, tasks.mask),
    }
    scores = {f"{name}_pointwise": _pointwise(*part) for name, part in parts.items()}
    if sampled:
        scores |= {f"{name}_joint": _joint(*parts[name]) for name in ("target", "task")}
    return scores


def _oracle_scores(
    exact: Any, tasks: TaskBatch, scores: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Those of the exact predictive at the targets, and what the model lacks of them."""
    law = exact.predict(tasks.xt, mask=tasks.mask_t)
    found = {"oracle_pointwise": _mean(law.log_prob(tasks.yt), tasks.mask_t)}
    found["gap_pointwise"] = found["oracle_pointwise"] - scores["target_pointwise"]
    try:
        joint = law.log_prob(tasks.yt, joint=True)
    except NotImplementedError:  # Student-t noise: no closed form
        return found
    found["oracle_joint"] = joint / tasks.mask_t.sum(-1)
    if "target_joint" in scores:
        found["gap_joint"] = found["oracle_joint"] - scores["target_joint"]
    return found


def _at_targets(law: Any, posterior: NeuralProcessPosterior, tasks: TaskBatch) -> _TargetPoints:
    n, network = tasks.xc.shape[1], posterior.trained.network

    def targets(values: Tensor) -> Tensor:
        return values[:, n:][tasks.mask_t].flatten()

    pit, sd = targets(law.cdf(tasks.y)), targets(law.stddev)
    crps = _crps(law, tasks)
    if not network.sampled:
        return _TargetPoints(pit, crps, None, None)
    share = targets(law.laws.mean.std(0, correction=0)) / sd
    if not network.conditional:
        return _TargetPoints(pit, crps, None, share)
    defect = (targets(law.mean) - targets(posterior.base(tasks.x).mean)).abs() / sd
    return _TargetPoints(pit, crps, defect, share)


def _crps(law: Any, tasks: TaskBatch) -> float:
    """Mean CRPS of the targets: exact for mixtures of normals, else by draws."""
    valid = torch.cat([torch.zeros_like(tasks.mask_c), tasks.mask_t], dim=1)
    y = tasks.y[valid]
    if isinstance(law.laws, Normal):
        return crps_mixture(y, law.laws.loc[:, valid], law.laws.scale[:, valid])
    with scoped_seed(0):
        draws = law.sample((_CRPS_DRAWS,))
    return crps_ensemble(y, draws[:, valid])


def _grid(tasks: TaskBatch) -> Tensor:
    """Equidistant points over all inputs of the tasks, `(NUM_POINTS, 1)`."""
    x = tasks.x[tasks.mask]
    return torch.linspace(float(x.min()), float(x.max()), NUM_POINTS, dtype=x.dtype)[:, None]


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid points of every task, `(B,)`."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1)


def _pointwise(logs: Tensor, mask: Tensor) -> Tensor:
    """Mean over points of log (1/K) Σ_k p_k(y_i), `(B,)`, for log densities `(K, B, N)`."""
    return _mean(logs.logsumexp(0) - math.log(len(logs)), mask)


def _joint(logs: Tensor, mask: Tensor) -> Tensor:
    """(1/N) log (1/K) Σ_k Π_i p_k(y_i), `(B,)`."""
    joint = torch.where(mask, logs, 0.0).sum(-1).logsumexp(0) - math.log(len(logs))
    return joint / mask.sum(-1)


def _summary(per_task: dict[str, Tensor], points: list[_TargetPoints]) -> Evaluation:
    counts = [len(p.pit) for p in points]
    pit = torch.cat([p.pit for p in points]).cpu().numpy()
    defects = [p.defect for p in points if p.defect is not None]
    shares = [p.share for p in points if p.share is not None]
    share = float(torch.cat(shares).mean()) if shares else None
    collapsed = share is not None and share < _COLLAPSED
    if collapsed:
        warn(
            f"all functions are the same: their spread is {share:.1e} of the predictive sd. "
            f"The generator has collapsed; train longer, or raise `pseudo_weight`."
        )
    return Evaluation(
        scores={n: float(v.mean()) for n, v in per_task.items()},
        standard_errors={n: float(v.std()) / len(v) ** 0.5 for n, v in per_task.items()},
        coverage={level: float(np.mean(abs(pit - 0.5) <= level / 2)) for level in _LEVELS},
        pit_ks=float(stats.kstest(pit, "uniform").statistic),
        crps=float(np.average([p.crps for p in points], weights=counts)),
        martingale_defect=float(torch.cat(defects).mean()) if defects else None,
        function_share=share,
        collapsed=collapsed,
        per_task=per_task,
    )
