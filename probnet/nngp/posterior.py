"""The posterior of a scale mixture: predictions, evidence, leave-one-out, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor
from torch.distributions import Distribution

from inference import Draws
from probnet._archive import PosteriorState
from probnet._checks import Values
from probnet.nngp.data import GPData
from probnet.nngp.export import scale_mixture_tree
from probnet.nngp.hyperparameters import HyperParameters
from probnet.nngp.kernel_files import kernel_from_dict, kernel_to_dict
from probnet.nngp.laws import joint_law, marginal_law, scale_weights
from probnet.nngp.priors import ScalePrior, scale_prior_from_dict
from probnet.nngp.quadrature import DataSummary, log_evidence
from probnet.nngp.robust import noise_kinds
from probnet.nngp.scale_law import scale_law
from probnet.nngp.solutions import DenseSolution, Solution
from probnet.nngp.sparse import SparseSolution
from probnet.posterior import Posterior
from probnet.predictive import DrawsMixture

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Every row predicted from all others, in the user's units.

    Attributes:
        mean: of each observation, shape of the targets.
        variance: of each observation, noise included; infinite where it does not exist.
        log_prob: log density of each row given the others, all its outputs together, `(n,)`.
    """

    mean: Tensor
    variance: Tensor
    log_prob: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class ScaleMixturePosterior(Posterior, family="nngp.scale_mixture"):
    """p(f, σ² | y), for fixed hyper-parameters or draws of them.

    Attributes:
        kernel: with the hyper-parameters at their mode, or as given.
        scale_prior: of σ².
        noise_ratio: ε at the mode, or as given.
        data: what was observed.
        vectors: draws of the hyper-parameters `(draws, p)`, or `None`.
        weights: of the draws.
        inducing: inducing points, or `None` for exact inference.
        precisions: E[ω] under robust noise `(n,)`, or `None`.
        noise_df: degrees of freedom of robust noise, or `None`.
        draws: of NUTS, with its statistics, or `None`.
    """

    kernel: Kernel
    scale_prior: ScalePrior
    noise_ratio: float
    data: GPData
    method: str
    diagnostics: Mapping[str, Any]
    vectors: Tensor | None = None
    weights: Tensor | None = None
    inducing: Tensor | None = None
    precisions: Tensor | None = None
    noise_df: float | None = None
    draws: Draws | None = None
    marginal_log_evidence: float | None = None

    @property
    def log_evidence(self) -> float:
        """Ln p(y) in the user's units.

        At the hyper-parameters used; with them integrated out under `method="laplace"`. A lower
        bound with inducing points or robust noise.

        Raises:
            ValueError: under `method="nuts"`, which has none.
        """
        if self.marginal_log_evidence is not None:
            return self.marginal_log_evidence + self.data.log_jacobian()
        if self.vectors is not None:
            raise ValueError("`log_evidence` is not defined for method='nuts'; use 'laplace'.")
        return self._plug_in_evidence + self.data.log_jacobian()

    @property
    def scale_posterior(self) -> Distribution:
        """The law of σ² given the data, with `mean`, `icdf` and all; a mixture over draws."""
        if self.vectors is None:
            return scale_law(self.scale_prior, self.solution.summary)
        summaries = _stacked([solution.summary for solution in self._solutions()])
        return DrawsMixture(scale_law(self.scale_prior, summaries), weights=self.weights)

    @cached_property
    def solution(self) -> Solution:
        """Conditioning at the mode of the hyper-parameters, or at those given."""
        ratio = torch.tensor(self.noise_ratio, dtype=torch.float64)
        return self._solve(self.kernel, ratio)

    def predict(
        self, x: Values, *, observation: bool = True, joint: bool = False
    ) -> Distribution:
        """The predictive law at new inputs; Student's t under an inverse-gamma prior.

        Args:
            x: inputs `(m, d)`, or images.
            observation: with the noise of a new observation.
            joint: all points together, sharing one σ².

        Returns:
            Batch shape `(m,)`, or `(outputs, m)` for several outputs; jointly the points are
            the event.

        Raises:
            ValueError: on inputs unlike the training inputs; for joint laws of robust noise.
        """
        z = self.data.inputs(self.kernel, x)
        if joint:
            return self._joint(z, observation=observation)
        means: list[Tensor] = []
        spreads: list[Tensor] = []
        summaries: list[DataSummary] = []
        kinds, spread = self._noise_kinds() if observation else (None, None)
        for solution in self._solutions():
            summaries.append(solution.summary)
            mean, variance = solution.marginals(z)
            means.append(self.data.mean_to_user(mean))
            noise = variance.new_zeros(1) if kinds is None else solution.noise_ratio * kinds
            spreads.append(self.data.variance_to_user(variance + noise[:, None]))
        scale = scale_weights(self.scale_prior, _stacked(summaries), self._draw_weights)
        return marginal_law(scale, torch.stack(means), torch.stack(spreads, dim=1), spread)

    def leave_one_out(self) -> LeaveOneOut:
        """Closed-form leave-one-out predictions at fixed hyper-parameters.

        Raises:
            ValueError: with inducing points, robust noise, or draws of hyper-parameters.
        """
        solution = self.solution
        if not isinstance(solution, DenseSolution) or self.vectors is not None or self.noise_df:
            raise ValueError(
                "leave-one-out has a closed form only for exact inference with normal noise at "
                f"fixed hyper-parameters; this posterior has method {self.method!r}."
            )
        mean, variance, rest = solution.leave_one_out()
        full = log_evidence(self.scale_prior, solution.summary)
        log_prob = full - log_evidence(self.scale_prior, rest) - self.data.unit.log().sum()
        spread = scale_law(self.scale_prior, rest).mean * variance
        means, variances = self.data.mean_to_user(mean.T), self.data.variance_to_user(spread)
        if self.data.vector_target:
            return LeaveOneOut(means, variances, log_prob)
        return LeaveOneOut(means.T, variances.T, log_prob)

    def condition(self, x: Values, y: Values) -> ScaleMixturePosterior:
        """The posterior after further data, exact for these hyper-parameters.

        Raises:
            ValueError: for draws of hyper-parameters, inducing points or robust noise.
        """
        if self.vectors is not None or self.inducing is not None or self.noise_df is not None:
            raise ValueError(
                f"`condition` is exact only at fixed hyper-parameters, with exact inference "
                f"and normal noise; this posterior has method {self.method!r}. Fit all data "
                f"again."
            )
        return replace(self, data=self.data.appended(self.kernel, x, y))

    def to_datatree(self) -> xarray.DataTree:
        """Draws of σ² and the hyper-parameters, the data, leave-one-out scores."""
        return scale_mixture_tree(self)

    def state(self) -> PosteriorState:
        """See `Posterior.state`."""
        config = {
            "kernel": kernel_to_dict(self.kernel),
            "scale_prior": self.scale_prior.to_dict(),
            "noise_ratio": self.noise_ratio,
            "noise_df": self.noise_df,
            "marginal_log_evidence": self.marginal_log_evidence,
            "data": self.data.config(),
        }
        named = {name: getattr(self, name) for name in _OPTIONAL_TENSORS}
        tensors = {name: value for name, value in named.items() if value is not None}
        tensors |= {"x": self.data.x, "y": self.data.y}
        return PosteriorState(self.method, self.diagnostics, config, tensors, self.draws)

    @classmethod
    def from_state(cls, state: PosteriorState) -> ScaleMixturePosterior:
        """See `Posterior.from_state`."""
        config, tensors = state.config, state.tensors
        return cls(
            kernel=kernel_from_dict(config["kernel"]),
            scale_prior=scale_prior_from_dict(config["scale_prior"]),
            noise_ratio=config["noise_ratio"],
            data=GPData.from_config(config["data"], tensors),
            method=state.method,
            diagnostics=state.diagnostics,
            noise_df=config["noise_df"],
            draws=state.draws,
            marginal_log_evidence=config["marginal_log_evidence"],
            **{name: tensors.get(name) for name in _OPTIONAL_TENSORS},
        )

    @property
    def hyperparameter_names(self) -> list[str]:
        """Names of the entries of `vectors`."""
        return self._hyper().names

    def _hyper(self) -> HyperParameters:
        return HyperParameters(self.kernel, self.noise_ratio)

    def _solve(self, kernel: Kernel, noise_ratio: Tensor) -> Solution:
        x, y = self.data.x, self.data.y
        if self.inducing is not None:
            return SparseSolution.solve(kernel, x, y, noise_ratio, self.inducing)
        return DenseSolution.solve(kernel, x, y, noise_ratio, self.precisions)

    def _solutions(self) -> Iterator[Solution]:
        """One per draw; made when needed, since all their factors may not fit in memory."""
        if self.vectors is None:
            yield self.solution
            return
        hyper = self._hyper()
        for vector in self.vectors:
            hyper.assign(vector)
            yield self._solve(hyper.kernel, hyper.noise_ratio.detach())

    @property
    def _draw_weights(self) -> Tensor:
        return torch.ones(1, dtype=torch.float64) if self.weights is None else self.weights

    @property
    def _plug_in_evidence(self) -> float:
        if self.noise_df is not None:
            return float(self.diagnostics["robust_lower_bound"])
        solution = self.solution
        return float(log_evidence(self.scale_prior, solution.summary) - solution.penalty)

    def _noise_kinds(self) -> tuple[Tensor, Tensor]:
        if self.noise_df is not None:
            return noise_kinds(self.noise_df)
        one = torch.ones(1, dtype=torch.float64)
        return one, one

    def _joint(self, z: Tensor, *, observation: bool) -> Distribution:
        if observation and self.noise_df is not None:
            raise ValueError(
                "`joint=True`: observations with Student-t noise have no closed joint law. "
                "Pass observation=False for that of the function."
            )
        means: list[Tensor] = []
        covariances: list[Tensor] = []
        summaries: list[DataSummary] = []
        for solution in self._solutions():
            summaries.append(solution.summary)
            mean, covariance = solution.covariance(z)
            if observation:
                noise = covariance.diagonal() + solution.noise_ratio
                covariance = torch.diagonal_scatter(covariance, noise)
            means.append(self.data.mean_to_user(mean))
            covariances.append(covariance)
        unit = self.data.unit[0] if self.data.vector_target else self.data.unit
        scale = scale_weights(self.scale_prior, _stacked(summaries), self._draw_weights)
        return joint_law(scale, means, covariances, unit)


def _stacked(summaries: list[DataSummary]) -> DataSummary:
    """Those of all draws, batch shape `(draws,)`."""
    quadratic, log_det = (
        torch.stack([getattr(s, name) for s in summaries]) for name in ("quadratic", "log_det")
    )
    return DataSummary(summaries[0].count, quadratic, log_det)


_OPTIONAL_TENSORS = ("vectors", "weights", "inducing", "precisions")
