"""Likelihoods of real-valued targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyro.distributions as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from inference._checks import check_positive
from probnet import predictive
from probnet.likelihoods.base import Likelihood, Parameter
from probnet.likelihoods.priors import half_normal


@dataclass(frozen=True, eq=False)
class Gaussian(Likelihood):
    """y ~ N(f, noise_sd²), the noise in the units of y and the same for all cases.

    Args:
        noise_sd: standard deviation, a number or a prior.
        noise_var: its square, instead. If neither is given, noise_sd is learned with a
            half-normal prior of scale 1, which suits standardised targets.

    Raises:
        ValueError: if both are given, or one is not positive.
    """

    parameter_names: ClassVar[tuple[str, ...]] = ("noise_sd", "noise_var")

    noise_sd: Parameter | None = None
    noise_var: Parameter | None = None

    def __post_init__(self) -> None:
        """Settle which of the two is the parameter."""
        if self.noise_sd is not None and self.noise_var is not None:
            raise ValueError(
                f"Give `noise_sd` or `noise_var`, not both; got {self.noise_sd} and "
                f"{self.noise_var}."
            )
        if self.noise_sd is None and self.noise_var is None:
            object.__setattr__(self, "noise_sd", half_normal())
        super().__post_init__()

    def _law(self, f: Tensor, **values: Any) -> Distribution:
        sd = values["noise_sd"] if "noise_sd" in values else values["noise_var"] ** 0.5
        return dist.Normal(f, sd, validate_args=False)


@dataclass(frozen=True, eq=False)
class HeteroscedasticGaussian(Likelihood):
    """y ~ N(f₀, s²) with s = min_noise_sd + softplus(f₁): the noise is a function too.

    Args:
        min_noise_sd: floor of s in the units of y, > 0; keeps the density bounded.
    """

    min_noise_sd: float = 1e-3

    def __post_init__(self) -> None:
        """Check the floor."""
        check_positive("min_noise_sd", self.min_noise_sd)

    @property
    def num_outputs(self) -> int:
        """Latent values per target: f₀ and f₁."""
        return 2

    def _law(self, f: Tensor, **values: Any) -> Distribution:
        sd = self.min_noise_sd + F.softplus(f[..., 1])
        return dist.Normal(f[..., 0], sd, validate_args=False)


@dataclass(frozen=True, eq=False)
class StudentT(Likelihood):
    """y = f + noise_scale * t with t of Student's law: outliers move the fit little.

    The noise has standard deviation noise_scale * √(df / (df - 2)) where df > 2.

    Args:
        df: degrees of freedom, a number or a prior.
        noise_scale: scale in the units of y, a number or a prior; half-normal of scale 1 if
            omitted.
    """

    parameter_names: ClassVar[tuple[str, ...]] = ("df", "noise_scale")

    df: Parameter = 4.0
    noise_scale: Parameter = field(default_factory=half_normal)

    def _law(self, f: Tensor, **values: Any) -> Distribution:
        return predictive.StudentT(values["df"], f, values["noise_scale"], validate_args=False)
