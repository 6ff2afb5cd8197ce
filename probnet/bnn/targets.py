"""The functional prior that is wanted: a Gaussian process, or a mixture of them."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import gpytorch
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from inference._checks import check_integer
from inference.rng import Stream, scoped_seed, stream_seed
from probnet._checks import Values, check_matrix
from probnet.bnn.random_features import SpectralDensity

_JITTER = 1e-6
_ENTRIES = 1 << 23  # of covariance matrices in memory at once


class Target(ABC):
    """A law of functions that can be drawn, with zero mean and a known covariance."""

    input_dim: int | None = None

    @abstractmethod
    def covariance(self, x: Tensor) -> Tensor:
        """Cov(f(x), f(x')) `(M, M)` at points `(M, d)`, hyper-parameters averaged over."""

    @abstractmethod
    def covariances(self, x: Tensor, count: int) -> Tensor:
        """Covariance matrices `(count, M, M)`, one per function, or `(M, M)` for all."""

    @property
    def spectrum(self) -> SpectralDensity | None:
        """The spectral density, if it is a scale mixture of Gaussians."""
        return None

    def sample(self, x: Values, num_samples: int, *, seed: int = 0) -> Tensor:
        """Random functions `(num_samples, M)` at points `(M, d)`, float64."""
        points = self.check_points(x)
        with scoped_seed(stream_seed(check_integer("seed", seed, 0), Stream.PREDICTIVE)):
            return self.draw(points, check_integer("num_samples", num_samples, 1))

    def draw(self, x: Tensor, count: int) -> Tensor:
        """As `sample`, from the global generator."""
        block = max(1, _ENTRIES // len(x) ** 2)
        pieces: list[Tensor] = []
        for start in range(0, count, block):
            size = min(block, count - start)
            factor = cholesky(self.covariances(x, size))
            noise = torch.randn(size, len(x), 1, dtype=torch.float64)
            pieces.append((factor @ noise).squeeze(-1))
        return torch.cat(pieces)

    def check_points(self, x: Values) -> Tensor:
        """Points as float64, with as many columns as the target has."""
        return check_matrix("x", x, self.input_dim)


def cholesky(covariance: Tensor) -> Tensor:
    """Cholesky factor with jitter 1e-6 of the mean variance, up to a hundredfold if needed."""
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    return psd_safe_cholesky(covariance + _JITTER * scale[..., None, None] * eye, max_tries=3)


class GPTarget(Target):
    """f ~ GP(0, k) with any GPyTorch kernel, whose hyper-parameters may have priors.

    Hyper-parameters with a registered prior are drawn from it, once per function; the others
    are fixed. Inputs are in standardised units. The kernel is copied.

    Args:
        kernel: a `gpytorch.kernels.Kernel` on inputs of d columns, without batch shape.
        num_kernel_draws: over which the covariance is averaged if hyper-parameters are random.
        noise_var: of observations around f, in units of the standardised target, where it is
            known (`fit` finds it); not part of f.

    Raises:
        TypeError: if `kernel` is not a GPyTorch kernel.

    Example:
        >>> kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        >>> GPTarget(kernel).sample(torch.linspace(-1, 1, 5)[:, None], 3, seed=0).shape
        torch.Size([3, 5])
    """

    def __init__(
        self,
        kernel: gpytorch.kernels.Kernel,
        *,
        num_kernel_draws: int = 1000,
        noise_var: float | None = None,
    ) -> None:
        if not isinstance(kernel, gpytorch.kernels.Kernel):
            raise TypeError(f"`kernel` must be a GPyTorch kernel; got {type(kernel).__name__}.")
        self.kernel = copy.deepcopy(kernel).double().requires_grad_(False)
        self.noise_var = noise_var
        self._num_draws = check_integer("num_kernel_draws", num_kernel_draws, 1)
        self._random = any(True for _ in self.kernel.named_priors())

    @classmethod
    def fit(
        cls, x: Values, y: Values, kernel: gpytorch.kernels.Kernel | None = None
    ) -> GPTarget:
        """The empirical-Bayes target: hyper-parameters of highest marginal likelihood.

        Args:
            x: inputs `(n, d)`, n <= 2000; standardised here.
            y: targets `(n,)`; standardised here.
            kernel: starting point; by default an RBF with one lengthscale per input.
        """
        from probnet.bnn.empirical import fit_kernel

        fitted, noise_var = fit_kernel(x, y, kernel)
        return cls(fitted, noise_var=noise_var)

    @property
    def spectrum(self) -> SpectralDensity | None:
        """Of a fixed RBF, Matérn or rational quadratic kernel, scaled or not."""
        kernel, outputscale = self.kernel, torch.ones(())
        if isinstance(kernel, gpytorch.kernels.ScaleKernel):
            kernel, outputscale = kernel.base_kernel, kernel.outputscale
        if self._random or getattr(kernel, "active_dims", None) is not None:
            return None
        options: dict[str, Any] = {"outputscale": outputscale.reshape(())}
        if isinstance(kernel, gpytorch.kernels.MaternKernel):
            options |= {"mixing": "matern", "concentration": kernel.nu}
        elif isinstance(kernel, gpytorch.kernels.RQKernel):
            options |= {"mixing": "rational_quadratic", "concentration": kernel.alpha.item()}
        elif type(kernel) is not gpytorch.kernels.RBFKernel:
            return None
        return SpectralDensity(kernel.lengthscale.reshape(-1), **options)

    def covariance(self, x: Tensor) -> Tensor:
        """See `Target.covariance`; a Monte Carlo mean, always of the same draws, if random."""
        if not self._random:
            return self.covariances(x, 1)
        return _mean_covariance(self, x, self._num_draws)

    def covariances(self, x: Tensor, count: int) -> Tensor:
        """See `Target.covariances`."""
        kernel = self.kernel
        if self._random:
            kernel = copy.deepcopy(kernel)
            draws: dict[str, Tensor] = {}
            for name, module, prior, closure, _ in kernel.named_priors():
                value = closure(module)
                draws[name] = prior.expand(value.shape).sample(torch.Size((count,))).double()
            kernel.pyro_load_from_samples(draws)
        with torch.no_grad():
            return kernel(x).to_dense()


class HierarchicalGPTarget(Target):
    """f ~ GP(0, α² RBF(ℓ)) with log-normal ℓ_d and α², drawn once per function.

    Source: Tran et al. (JMLR 2022); their code applies a softplus to the log-normal draws,
    which `reference=True` repeats.

    Args:
        input_dim: d.
        lengthscale: a `LogNormal` of each ℓ_d, independent; by default median √(2d) and
            standard deviation 1 of the logarithm, the paper's choice for UCI tables.
        variance: a `LogNormal` of α²; by default (0.1, 1).
        num_kernel_draws: over which the covariance is averaged.
        reference: repeat the published code's transformation.

    Raises:
        TypeError: if a law is not log-normal.
    """

    def __init__(
        self,
        input_dim: int,
        lengthscale: torch.distributions.Distribution | None = None,
        variance: torch.distributions.Distribution | None = None,
        *,
        num_kernel_draws: int = 2000,
        reference: bool = False,
    ) -> None:
        self.input_dim = check_integer("input_dim", input_dim, 1)
        self.lengthscale = _log_normal(
            "lengthscale", lengthscale or dist.LogNormal(0.5 * math.log(2 * input_dim), 1.0)
        )
        self.variance = _log_normal("variance", variance or dist.LogNormal(0.1, 1.0))
        self.reference = reference
        self._num_draws = check_integer("num_kernel_draws", num_kernel_draws, 1)

    @classmethod
    def rbf(cls, input_dim: int, **options: Any) -> HierarchicalGPTarget:
        """The same as the constructor, named for its kernel."""
        return cls(input_dim, **options)

    @property
    def spectrum(self) -> SpectralDensity | None:
        """That of the RBF with log-normal scales."""
        if self.reference:
            return None
        return SpectralDensity(
            self.lengthscale[0].exp().expand(self.input_dim or 1),
            self.variance[0].exp(),
            log_lengthscale_sd=self.lengthscale[1].expand(self.input_dim or 1),
            log_outputscale_sd=self.variance[1],
        )

    def covariance(self, x: Tensor) -> Tensor:
        """See `Target.covariance`; a Monte Carlo mean, always of the same draws."""
        return _mean_covariance(self, x, self._num_draws)

    def covariances(self, x: Tensor, count: int) -> Tensor:
        """See `Target.covariances`."""
        (l_loc, l_sd), (v_loc, v_sd) = self.lengthscale, self.variance
        options: dict[str, Any] = {"dtype": torch.float64}
        lengthscale = (
            l_loc + l_sd * torch.randn(count, 1, self.input_dim or 1, **options)
        ).exp()
        variance = (v_loc + v_sd * torch.randn(count, 1, 1, **options)).exp()
        if self.reference:
            lengthscale, variance = F.softplus(lengthscale), F.softplus(variance)
        scaled = (x - x.mean(0)) / lengthscale
        square = scaled.square().sum(-1)
        distance = square.unsqueeze(-1) + square.unsqueeze(-2) - 2 * scaled @ scaled.mT
        return variance * distance.clamp_min_(0).mul_(-0.5).exp_()


def _mean_covariance(target: GPTarget | HierarchicalGPTarget, x: Tensor, count: int) -> Tensor:
    block = max(1, _ENTRIES // len(x) ** 2)
    total = torch.zeros(len(x), len(x), dtype=torch.float64)
    with scoped_seed(stream_seed(0, Stream.INIT)):
        for start in range(0, count, block):
            size = min(block, count - start)
            total += target.covariances(x, size).sum(0)
    return total / count


def _log_normal(name: str, law: torch.distributions.Distribution) -> tuple[Tensor, Tensor]:
    if not isinstance(law, torch.distributions.LogNormal):
        raise TypeError(f"`{name}` must be a LogNormal; got {type(law).__name__}.")
    return torch.as_tensor(law.loc).double(), torch.as_tensor(law.scale).double()
