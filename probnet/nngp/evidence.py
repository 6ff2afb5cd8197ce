"""Evidence over architectures, and of the scale prior itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import Distribution, Normal

from inference.errors import warn
from probnet._checks import Values
from probnet.nngp.independent import IndependentNoisePosterior
from probnet.nngp.posterior import ScaleMixturePosterior
from probnet.nngp.priors import InverseGamma
from probnet.nngp.quadrature import DataSummary, log_evidence
from probnet.predictive import DrawsMixture, StudentT

Fitted = ScaleMixturePosterior | IndependentNoisePosterior

_LARGEST = 1e4  # of α and β, where Student's t is the normal law


@dataclass(frozen=True, eq=False)
class EvidenceMixture:
    """Posteriors of several models of the same data, weighted by their evidence.

    Attributes:
        posteriors: by name.
        log_evidence: ln p(y) of each, by name, largest first.
        weights: posterior probability of each under equal prior ones.
    """

    posteriors: Mapping[str, Fitted]
    log_evidence: Mapping[str, float]
    weights: Mapping[str, float]

    @property
    def best(self) -> Fitted:
        """The posterior with the largest evidence."""
        return self.posteriors[next(iter(self.log_evidence))]

    def predict(self, x: Values, *, observation: bool = True) -> Distribution:
        """The predictive law averaged over the models.

        Raises:
            ValueError: if some laws are mixtures of normals and others of Student's t.
        """
        parts: list[tuple[Distribution, Tensor]] = []
        for name, weight in self.weights.items():
            law = self.posteriors[name].predict(x, observation=observation)
            if isinstance(law, DrawsMixture):
                logs = law.log_weights
                own = (
                    torch.full((law.num_draws,), 1 / law.num_draws)
                    if logs is None
                    else logs.exp()
                )
                parts.append((law.components, weight * own))
            else:
                parts.append((_as_one_draw(law), torch.tensor([weight], dtype=torch.float64)))
        components = [law for law, _ in parts]
        kinds = {type(law).__name__ for law in components}
        if len(kinds) > 1:
            raise ValueError(
                f"models with different kinds of predictive laws, {sorted(kinds)}, cannot be "
                f"mixed; fit them all with the same family of scale priors."
            )
        fields = ("df", "loc", "scale") if kinds == {"StudentT"} else ("loc", "scale")
        joined = [torch.cat([getattr(law, f) for law in components]) for f in fields]
        family: Any = StudentT if len(joined) == 3 else Normal
        law = family(*joined, validate_args=False)
        return DrawsMixture(law, weights=torch.cat([weights for _, weights in parts]))

    def table(self) -> str:
        """Evidence and weights as text, best first."""
        width = max(len(name) for name in self.log_evidence)
        lines = [f"{'model':{width}}  log evidence   weight"]
        for name, value in self.log_evidence.items():
            lines.append(f"{name:{width}}  {value:12.3f}   {self.weights[name]:.4f}")
        return "\n".join(lines)


def compare(posteriors: Mapping[str, Fitted]) -> EvidenceMixture:
    """Compare models of the same data by their evidence.

    Args:
        posteriors: by name.

    Raises:
        ValueError: if there is none, or they were fitted to different targets.
    """
    if not posteriors:
        raise ValueError("`posteriors` must name at least one posterior; got none.")
    first, *others = (p.data for p in posteriors.values())
    targets = first.mean_to_user(first.y.T)
    for data in others:
        own = data.mean_to_user(data.y.T)
        if own.shape != targets.shape or not torch.allclose(own, targets):
            raise ValueError(
                "`posteriors` must be of the same targets; evidence compares no others."
            )
    values = {name: float(p.log_evidence) for name, p in posteriors.items()}
    ordered = dict(sorted(values.items(), key=lambda item: -item[1]))
    logs = torch.tensor(list(ordered.values()), dtype=torch.float64)
    weights = (logs - logs.logsumexp(0)).exp().tolist()
    return EvidenceMixture(dict(posteriors), ordered, dict(zip(ordered, weights, strict=True)))


def fit_inverse_gamma(posteriors: Sequence[ScaleMixturePosterior]) -> InverseGamma:
    """α and β that maximise the evidence of several data sets, each with a σ² of its own.

    One data set does not identify them, however many outputs share its σ²: for every ν = 2α the
    best scale is q/n, and the evidence then grows with ν up to its Gaussian limit. A warning
    says so.

    Args:
        posteriors: of the data sets, at fixed hyper-parameters.
    """
    if not posteriors:
        raise ValueError("`posteriors` must hold at least one posterior; got none.")
    if len(posteriors) == 1:
        warn(
            "α and β cannot be learned from one data set: the evidence grows with α up to its "
            "Gaussian limit (β/α fixed at q/n), and the result is at the edge of what is "
            "allowed. Fix them as a prior, or pass several data sets with scales of their own."
        )
    summaries = [p.solution.summary for p in posteriors]

    def negative(logs: Any) -> float:
        prior = InverseGamma(*(float(v) for v in np.exp(logs)))
        return -sum(float(log_evidence(prior, s)) for s in summaries)

    mean = float(np.mean([_scale_at_maximum(s) for s in summaries]))
    start = np.log([2.0, 2.0 * mean])
    top = math.log(_LARGEST)
    bounds = [(-5.0, top), (start[1] - 12, max(start[1] + 12, top + math.log(mean)))]
    found: Any = minimize(negative, start, method="L-BFGS-B", bounds=bounds)
    concentration, rate = (float(v) for v in np.exp(found.x))
    return InverseGamma(concentration, rate)


def _scale_at_maximum(summary: DataSummary) -> float:
    return float(summary.quadratic) / summary.count


def _as_one_draw(law: Any) -> Distribution:
    if isinstance(law, StudentT):
        return StudentT(law.df[None], law.loc[None], law.scale[None], validate_args=False)
    return Normal(law.loc[None], law.scale[None], validate_args=False)
