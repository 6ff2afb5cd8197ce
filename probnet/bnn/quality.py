"""How well the functions of a prior behave like those of the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from probnet.bnn.networks import BayesianMLP
from probnet.bnn.objectives import energy_distance, nngp_covariance
from probnet.bnn.priors import GaussianPrior, WeightPrior
from probnet.bnn.targets import Target, cholesky
from probnet.linalg import gaussian_w2

_NUM_FUNCTIONS, _NUM_ENERGY = 4096, 1000
COVARIANCE_LIMIT = 0.3


@dataclass(frozen=True)
class MatchReport(Mapping[str, Any]):
    """What a matched prior's functions are like, at a measurement set of their own.

    Items are read by name, as attributes or keys. Covariances are exact where the network has
    at most one hidden layer and a Gaussian prior, else from 4096 functions; the error that
    sampling by itself brings is taken off `cov_frobenius`.

    Attributes:
        objective: what was minimised.
        w2: Gaussian 2-Wasserstein distance W₂ of the two covariances.
        w2_squared_per_point: W₂²/M.
        cov_frobenius: ‖K_nn - K‖ / ‖K‖ in the Frobenius norm.
        var_error: mean of `|Var f(x) - k(x, x)| / k(x, x)` over the points.
        energy: energy distance of 1000 functions of each, sensitive to all of the law.
        kurtosis: mean excess kurtosis of f(x), zero for a Gaussian process.
        num_evaluations: of the objective.
        seconds: CPU time of the optimisation; that of this report not included.
        standardized: whether the measurement set brought its inputs to standard units.
        representable: whether `cov_frobenius` is at most 0.3.
    """

    objective: str
    w2: float
    w2_squared_per_point: float
    cov_frobenius: float
    var_error: float
    energy: float
    kurtosis: float
    num_evaluations: int
    seconds: float
    standardized: bool
    representable: bool

    def __getitem__(self, name: str) -> Any:
        """The item of that name."""
        return asdict(self)[name]

    def __iter__(self) -> Iterator[str]:
        """Names of the items."""
        return iter(asdict(self))

    def __len__(self) -> int:
        """Number of items."""
        return len(asdict(self))


def compare(prior: WeightPrior, target: Target, x: Tensor, *, seed: int) -> dict[str, float]:
    """The measured part of a `MatchReport` at points x."""
    expected = target.covariance(x)
    with torch.no_grad():
        f = one_output(prior.functions(x, _NUM_FUNCTIONS, seed=seed))
        noise = 0.0
        found = exact_covariance(prior, x)
        if found is None:
            found = f.T @ f / len(f)
            noise = float(found.trace() ** 2 + found.square().sum()) / len(f)
        error = float((found - expected).square().sum()) - noise
        w2 = max(float(gaussian_w2(found, cholesky(expected))), 0.0)
        g = target.sample(x, _NUM_ENERGY, seed=seed)
        variance, truth = found.diagonal(), expected.diagonal()
        fourth = f.pow(4).mean(0) / f.square().mean(0).square()
        return {
            "w2": w2**0.5,
            "w2_squared_per_point": w2 / len(x),
            "cov_frobenius": max(error, 0.0) ** 0.5 / float(expected.norm()),
            "var_error": float(((variance - truth).abs() / truth).mean()),
            "energy": float(energy_distance(f[:_NUM_ENERGY], g)),
            "kurtosis": float(fourth.mean() - 3),
        }


def exact_covariance(prior: WeightPrior, x: Tensor) -> Tensor | None:
    """Cov(f(x), f(x')) where it is known at finite width, else `None`."""
    network = prior.network
    if not isinstance(prior, GaussianPrior) or not isinstance(network, BayesianMLP):
        return None
    scalar = all(value.numel() == 1 for value in prior.hyperparameters.values())
    if len(network.hidden) > 1 or not scalar:
        return None
    log_stds = {name: value.reshape(()).log() for name, value in prior.hyperparameters.items()}
    return nngp_covariance(network, log_stds, x)


def one_output(functions: Tensor) -> Tensor:
    """The first output; the others have the same law."""
    return functions[..., 0] if functions.ndim == 3 else functions
