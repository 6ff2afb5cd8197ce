r"""Infinitely wide networks trained by gradient flow to convergence on squared loss, no noise.

Trained in the last layer only, f* | σ² ~ N(k*ᵀK⁻¹y, σ²(k** - k*ᵀK⁻¹k*)). Trained in all layers,
with the tangent kernel Θ and A = Θ*ᵀΘ⁻¹: mean A y, covariance σ²(k** + AKAᵀ - A k* - k*ᵀAᵀ).

Training does not update σ²: it keeps its prior. Under InverseGamma(α, β) the ensemble is
Student's t with 2α degrees of freedom, not the 2α + n of the Bayesian posterior.

Source: Lee et al. (NeurIPS 2019) and Lee, Yun, Yang & Lee (ICLR 2022), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from inference._checks import check_choice
from inference.export import build_datatree
from probnet._archive import PosteriorState
from probnet._checks import Values
from probnet.kernels.neural import NNGPKernel
from probnet.linalg import jittered_cholesky
from probnet.nngp.data import GPData
from probnet.nngp.kernel_files import kernel_from_dict, kernel_to_dict
from probnet.nngp.laws import ScaleWeights, joint_law, marginal_law, scale_weights
from probnet.nngp.priors import ScalePrior, scale_prior_from_dict
from probnet.nngp.quadrature import DataSummary
from probnet.nngp.solutions import check_memory, gram
from probnet.posterior import Posterior

if TYPE_CHECKING:
    import xarray


class TrainedNetworkLimit:
    """The law of an infinitely wide network after training; see the module.

    Args:
        kernel: of the network at initialisation.
        scale_prior: from which every network's σ² is drawn at initialisation.
        train: `"last"` or `"all"` layers.
        standardize: as for `ScaleMixtureGP`.
        memory_limit: likewise.
    """

    def __init__(
        self,
        kernel: NNGPKernel,
        scale_prior: ScalePrior,
        *,
        train: Literal["last", "all"] = "all",
        standardize: bool = False,
        memory_limit: float = 8 * 2**30,
    ) -> None:
        if not isinstance(kernel, NNGPKernel):
            raise TypeError(f"`kernel` must be an NNGPKernel; got {type(kernel).__name__}.")
        if not isinstance(scale_prior, ScalePrior):
            raise TypeError(
                f"`scale_prior` must be one of probnet.nngp's; got {scale_prior!r}."
            )
        self.kernel, self.scale_prior = kernel, scale_prior
        self.train = check_choice("train", train, ("last", "all"))
        self.standardize, self.memory_limit = standardize, memory_limit

    def condition(self, x: Values, y: Values) -> TrainedNetworkPosterior:
        """Train on data `(n, d)`, `(n,)` or `(n, outputs)`."""
        data = GPData.checked(self.kernel, x, y, standardize=self.standardize)
        check_memory(len(data.y), self.memory_limit)
        method = f"trained_{self.train}"
        return TrainedNetworkPosterior(self.kernel, self.scale_prior, data, method, {})


@dataclass(frozen=True, eq=False, repr=False)
class TrainedNetworkPosterior(Posterior, family="nngp.trained"):
    """The law of trained networks, an ensemble and not a Bayesian posterior.

    Attributes:
        kernel: of the network at initialisation.
        scale_prior: of σ², unchanged by training.
        data: trained on.
    """

    kernel: NNGPKernel
    scale_prior: ScalePrior
    data: GPData
    method: str
    diagnostics: Mapping[str, Any]

    def predict(
        self, x: Values, *, observation: bool = False, joint: bool = False
    ) -> Distribution:
        """The law of a trained network's outputs.

        Args:
            x: inputs.
            observation: must be `False`: the limit has no noise.
            joint: all points together, sharing one σ².

        Returns:
            As from `ScaleMixturePosterior.predict`. Under priors other than an inverse gamma
            it is a finite mixture, with finite moments even where the law itself has none.

        Raises:
            ValueError: on `observation=True`, or inputs unlike the training inputs.
        """
        if observation:
            raise ValueError("`observation=True`: the limit of training has no noise model.")
        mean, covariance = self._moments(self.data.inputs(self.kernel, x))
        loc, scale = self.data.mean_to_user(mean), self._scale
        if joint:
            unit = self.data.unit[0] if self.data.vector_target else self.data.unit
            return joint_law(scale, [loc], [covariance], unit)
        variance = self.data.variance_to_user(covariance.diagonal().clamp_min(0))
        return marginal_law(scale, loc[None], variance[None, None])

    def mean(self, x: Values, *, observation: bool = False) -> Tensor:
        """Mean of `predict(x)`."""
        return super().mean(x, observation=observation)

    def sd(self, x: Values, *, observation: bool = False) -> Tensor:
        """Standard deviation of `predict(x)`; infinite for 2α <= 2."""
        return super().sd(x, observation=observation)

    def sample(
        self,
        n: int,
        x: Values,
        *,
        seed: int = 0,
        observation: bool = False,
        joint: bool = False,
    ) -> Tensor:
        """Draw n times from `predict(x)`."""
        return super().sample(n, x, seed=seed, observation=observation, joint=joint)

    def to_datatree(self) -> xarray.DataTree:
        """Draws of σ², from its prior, and the data."""
        from probnet.nngp.scale_law import scale_law

        empty = DataSummary(0, torch.zeros((), dtype=torch.float64), torch.zeros(()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            scale = scale_law(self.scale_prior, empty).sample(torch.Size((1, 1000)))
        groups = {
            "posterior": {"scale": scale.numpy()},
            "observed_data": {"y": self.data.y.numpy()},
            "constant_data": {"x": self.data.x.numpy()},
        }
        attrs = {"method": self.method, "draws": "independent"}
        dims = {"y": ["row", "output"], "x": ["row", "feature"]}
        return build_datatree(groups, coords={}, dims=dims, attrs=attrs)

    def state(self) -> PosteriorState:
        """See `Posterior.state`."""
        config = {
            "kernel": kernel_to_dict(self.kernel),
            "scale_prior": self.scale_prior.to_dict(),
            "data": self.data.config(),
        }
        tensors = {"x": self.data.x, "y": self.data.y}
        return PosteriorState(self.method, self.diagnostics, config, tensors)

    @classmethod
    def from_state(cls, state: PosteriorState) -> TrainedNetworkPosterior:
        """See `Posterior.from_state`."""
        kernel: Any = kernel_from_dict(state.config["kernel"])
        prior = scale_prior_from_dict(state.config["scale_prior"])
        data = GPData.from_config(state.config["data"], state.tensors)
        return cls(kernel, prior, data, state.method, state.diagnostics)

    @property
    def _scale(self) -> ScaleWeights:
        zero = torch.zeros(1, dtype=torch.float64)
        return scale_weights(self.scale_prior, DataSummary(0, zero, zero), zero + 1)

    @cached_property
    def _factor(self) -> Tensor:
        """Cholesky factor of K, or of Θ."""
        kernel = self.kernel if self.method == "trained_last" else self.kernel.tangent_kernel()
        return jittered_cholesky(
            gram(kernel, self.data.x).detach(),
            hint=lambda: "Training without noise needs distinct inputs; drop duplicates.",
        )

    @torch.no_grad()
    def _moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean `(outputs, m)` and covariance `(m, m)` at σ = 1."""
        prior, cross = gram(self.kernel, z), gram(self.kernel, self.data.x, z)
        if self.method == "trained_last":
            half = torch.linalg.solve_triangular(self._factor, cross, upper=False)
            mean = self.data.y.T @ torch.cholesky_solve(cross, self._factor)
            return mean, prior - half.T @ half
        tangent = gram(self.kernel.tangent_kernel(), self.data.x, z)
        a = torch.cholesky_solve(tangent, self._factor)  # Aᵀ
        mixed = a.T @ cross
        spread = a.T @ gram(self.kernel, self.data.x) @ a
        return self.data.y.T @ a, prior + spread - mixed - mixed.T
