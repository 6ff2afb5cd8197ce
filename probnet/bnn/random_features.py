"""One layer of random cosine features: a weight prior that is a kernel, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference._checks import check_choice
from probnet._checks import Values, as_tensor
from probnet.bnn.networks import BayesianNetwork
from probnet.bnn.priors import Latents, WeightPrior, check_positive_entries

_POWERS = {"none": 0.0, "matern": -0.5, "rational_quadratic": 0.5}


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    r"""A stationary kernel by its spectral density, a scale mixture of Gaussians.

    Frequencies are ω_d = z_d g^p / ℓ_d with z ~ N(0, I) and g ~ Gamma(c, c): without mixing the
    RBF kernel; with p = -1/2 and c = ν Matérn's (ω is Student-t with 2ν degrees of freedom);
    with p = 1/2 and c = α the rational quadratic. Lengthscales and variance may be log-normal.

    Source: Rahimi & Recht (NeurIPS 2007).

    Args:
        lengthscale: ℓ, one or one per input; the median if it is random.
        outputscale: the variance; the median if it is random.
        mixing: `"none"`, `"matern"` or `"rational_quadratic"`.
        concentration: c > 0, of the mixing.
        log_lengthscale_sd: standard deviation of log ℓ, 0 for fixed.
        log_outputscale_sd: standard deviation of the log variance, 0 for fixed.

    Raises:
        ValueError: on values out of range.
    """

    lengthscale: Values
    outputscale: Values = 1.0
    mixing: str = "none"
    concentration: float = 1.0
    log_lengthscale_sd: Values = 0.0
    log_outputscale_sd: Values = 0.0
    parameters: dict[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check, and hold all numbers as float64 tensors."""
        check_choice("mixing", self.mixing, _POWERS)
        parameters = {
            name: as_tensor(name, getattr(self, name)).detach()
            for name in (
                "lengthscale",
                "outputscale",
                "concentration",
                "log_lengthscale_sd",
                "log_outputscale_sd",
            )
        }
        for name in ("lengthscale", "outputscale", "concentration"):
            check_positive_entries(name, parameters[name])
        for name in ("log_lengthscale_sd", "log_outputscale_sd"):
            if bool((parameters[name] < 0).any()):
                raise ValueError(f"`{name}` must be >= 0; got {parameters[name].min():g}.")
        object.__setattr__(self, "parameters", parameters)


@dataclass(frozen=True, eq=False)
class RandomFeaturePrior(WeightPrior):
    r"""f(x) = H^{-1/2} Σ_h a_h √2 cos(ω_hᵀx + φ_h): covariance k(x, x') for every width H.

    ω has the kernel's spectral density, φ ~ U(0, 2π), a ~ N(0, outputscale). Only higher
    moments depend on the width: the excess kurtosis of f(x) is 1.5/H. With random lengthscales
    and variance it is the hierarchical Gaussian process, exactly in its first two moments given
    them.

    Attributes:
        network: of family `"rff"`.
        hyperparameters: the `parameters` of a `SpectralDensity`.
        mixing: of it.
    """

    family: ClassVar[str] = "rff"

    mixing: str = "none"

    @classmethod
    def from_spectrum(
        cls, network: BayesianNetwork, spectrum: SpectralDensity
    ) -> RandomFeaturePrior:
        """The prior whose functions have this spectral density."""
        d = network.input_dim
        values = dict(spectrum.parameters)
        for name in ("lengthscale", "log_lengthscale_sd"):
            if values[name].numel() not in {1, d}:
                raise ValueError(
                    f"`{name}` must have 1 or {d} entries, one per input of the network; got "
                    f"{values[name].numel()}."
                )
            values[name] = values[name].reshape(-1).expand(d).clone()
        return cls(network, values, spectrum.mixing)

    @property
    def stds(self) -> dict[str, Any]:
        """Of `w1` per input (√D/ℓ_d times the mixing's), `b1` and `w2`; medians if random."""
        p, c = _POWERS[self.mixing], self.hyperparameters["concentration"]
        heavy = float(c / (c - 1)) if c > 1 else math.inf  # E[1/g]
        moment = heavy if p < 0 else 1.0
        scale = (self.network.input_dim * moment) ** 0.5 / self.hyperparameters["lengthscale"]
        return {
            "w1": scale[0].item() if bool((scale == scale[0]).all()) else scale.tolist(),
            "b1": math.pi / 3**0.5,
            "w2": float(self.hyperparameters["outputscale"].sqrt()),
        }

    @property
    def num_latents(self) -> int:
        """Length of `"z"`: the weights, and the log lengthscales and variance where random."""
        return super().num_latents + self._num_random[0] + self._num_random[1]

    @property
    def latent_laws(self) -> dict[str, dist.TorchDistribution]:
        """The law of the mixing, one g per hidden unit."""
        if self.mixing == "none":
            return {}
        c = self.hyperparameters["concentration"].expand(self.network.shapes["b1"])
        law: Any = dist.Gamma(c, c)
        return {"mixing": law}

    def weights(self, latents: Latents) -> dict[str, Tensor]:
        """See `WeightPrior.weights`."""
        z = latents["z"]
        values = {n: v.to(z.dtype) for n, v in self.hyperparameters.items()}
        d, hidden = self.network.shapes["w1"]
        outputs = self.network.output_dim
        z_w, z_b, z_a, z_l, z_s = z.split(
            [d * hidden, hidden, hidden * outputs, *self._num_random], dim=-1
        )
        lengthscale = values["lengthscale"]
        if self._num_random[0]:
            lengthscale = lengthscale * (values["log_lengthscale_sd"] * z_l).exp()
        outputscale = values["outputscale"]
        if self._num_random[1]:
            outputscale = outputscale * (values["log_outputscale_sd"] * z_s).exp()
        batch = z.shape[:-1]
        frequency = d**0.5 * z_w.reshape(*batch, d, hidden) / lengthscale.unsqueeze(-1)
        if self.mixing != "none":
            mixing = latents["mixing"].to(z.dtype) ** _POWERS[self.mixing]
            frequency = frequency * mixing.unsqueeze(-2)
        amplitude = outputscale.sqrt().unsqueeze(-1) if outputscale.ndim else outputscale.sqrt()
        return {
            "w1": frequency,
            "b1": 2 * math.pi * torch.special.ndtr(z_b),
            "w2": z_a.reshape(*batch, hidden, outputs) * amplitude,
        }

    def options(self) -> dict[str, Any]:
        """See `WeightPrior.options`."""
        return {"mixing": self.mixing}

    @property
    def _num_random(self) -> tuple[int, int]:
        sds = (self.hyperparameters[f"log_{n}_sd"] for n in ("lengthscale", "outputscale"))
        lengthscale, outputscale = (bool((sd > 0).any()) for sd in sds)
        return (self.network.input_dim if lengthscale else 0, 1 if outputscale else 0)
