r"""Softmax classification by variational inference, whitened, with one scale shared by all.

With inducing points Z, L Lᵀ = K_ZZ and latents u_c = σ L v_c, the prior of v_c is N(0, I)
whatever σ is, and q(v_c) = N(μ_c, S_c) with full S_c. Then, a_i = L⁻¹k_Zi,

    f_ic = σ (a_iᵀμ_c + √(a_iᵀS_c a_i + k_ii - |a_i|²) z),

with one σ per draw for all points and classes. q(ln σ²) is normal, its divergence from any
scale prior a one-dimensional Gauss-Hermite sum. The output layer's variance is free in
addition, so that a tight scale prior does not starve the latents.

Source: Lee, Yun, Yang & Lee (ICLR 2022), section 4, whose family is diagonal and unwhitened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gpytorch.kernels import Kernel
from torch import Generator, Tensor
from torch.distributions import Categorical, Distribution
from tqdm.auto import tqdm

from inference._checks import check_integer, check_positive
from inference.export import build_datatree
from inference.rng import Stream, generator
from probnet._archive import PosteriorState
from probnet._checks import Values
from probnet.linalg import jittered_cholesky
from probnet.nngp.data import GPData
from probnet.nngp.kernel_files import kernel_from_dict, kernel_to_dict
from probnet.nngp.priors import PointMass, ScalePrior, scale_prior_from_dict
from probnet.nngp.solutions import gram, variances
from probnet.nngp.sparse import choose_inducing
from probnet.posterior import Posterior

if TYPE_CHECKING:
    import xarray

_PREDICTIVE_DRAWS = 1000
_CHUNK = 50
_EVALUATION_DRAWS = 100
_START = -1.5  # log standard deviation of the whitened latents


@dataclass(frozen=True, eq=False, repr=False)
class VariationalClassifierPosterior(Posterior, family="nngp.variational_classifier"):
    """q(f, σ²) under the softmax likelihood.

    Attributes:
        kernel: of every latent at σ = 1.
        scale_prior: of σ².
        inducing: Z.
        parameters: of q: `mean` (C, M), `factor` (C, M, M), `scale` (mean and log standard
            deviation of ln σ²), `log_amplitude` (the output layer's variance).
        elbo: evidence lower bound per case and step.
    """

    kernel: Kernel
    scale_prior: ScalePrior
    inducing: Tensor
    parameters: Mapping[str, Tensor]
    elbo: Tensor
    method: str
    diagnostics: Mapping[str, Any]

    def predict(
        self, x: Values, *, observation: bool = True, joint: bool = False
    ) -> Distribution:
        """Class probabilities at new inputs: a `Categorical` of batch shape `(m,)`.

        They average the softmax over 1000 draws, each with one σ² for all points and classes;
        always the same draws.

        Args:
            x: inputs.
            observation: must be true.
            joint: not offered.

        Raises:
            ValueError: on the laws not offered.
        """
        if joint or not observation:
            raise ValueError("this posterior offers class probabilities of each point only.")
        z = self._inputs(x)
        factor = jittered_cholesky(gram(self.kernel, self.inducing).detach())
        a = _project(self.kernel, factor, self.inducing, z)
        rest = (variances(self.kernel, z).detach() - a.square().sum(0)).clamp_min(0)
        noise = generator(0, Stream.PREDICTIVE)
        family = _Family(dict(self.parameters), self.scale_prior)
        total = torch.zeros(len(z), len(self.parameters["mean"]), dtype=torch.float64)
        with torch.no_grad():
            for _ in range(_PREDICTIVE_DRAWS // _CHUNK):
                logits = family.latents(a, rest, _CHUNK, noise)
                total += logits.softmax(-1).sum(0)
        return Categorical(total / total.sum(-1, keepdim=True), validate_args=False)

    def to_datatree(self) -> xarray.DataTree:
        """Draws of σ² from q, and the trace of the bound."""
        noise = generator(0, Stream.PREDICTIVE)
        scale = _Family(dict(self.parameters), self.scale_prior).log_scale(1000, noise).exp()
        groups = {
            "posterior": {"scale": scale.detach().numpy()[None]},
            "optimization": {"elbo": self.elbo.numpy()},
        }
        attrs = {"method": self.method, "draws": "independent"}
        return build_datatree(groups, coords={}, dims={}, attrs=attrs)

    def state(self) -> PosteriorState:
        """See `Posterior.state`."""
        config = {
            "kernel": kernel_to_dict(self.kernel),
            "scale_prior": self.scale_prior.to_dict(),
        }
        tensors = {"inducing": self.inducing, "elbo": self.elbo}
        tensors |= {f"q.{name}": value for name, value in self.parameters.items()}
        return PosteriorState(self.method, self.diagnostics, config, tensors)

    @classmethod
    def from_state(cls, state: PosteriorState) -> VariationalClassifierPosterior:
        """See `Posterior.from_state`."""
        named = state.tensors.items()
        return cls(
            kernel=kernel_from_dict(state.config["kernel"]),
            scale_prior=scale_prior_from_dict(state.config["scale_prior"]),
            inducing=state.tensors["inducing"],
            parameters={n.removeprefix("q."): v for n, v in named if n.startswith("q.")},
            elbo=state.tensors["elbo"],
            method=state.method,
            diagnostics=state.diagnostics,
        )

    def _inputs(self, x: Values) -> Tensor:
        empty = torch.zeros(0, 1, dtype=torch.float64)
        return GPData(self.inducing, empty, True, None, None).inputs(self.kernel, x)


def fit_variational(
    kernel: Kernel,
    scale_prior: ScalePrior,
    x: Values,
    labels: Tensor,
    *,
    num_inducing: int = 200,
    num_steps: int = 1500,
    batch_size: int = 100,
    learning_rate: float = 0.01,
    num_draws: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> VariationalClassifierPosterior:
    """Maximise the evidence lower bound by Adam on minibatches.

    Args:
        kernel: of every latent; its hyper-parameters stay as they are.
        scale_prior: of σ².
        x: inputs.
        labels: int64 class numbers `(n,)`.
        num_inducing: M, inputs chosen by pivoted Cholesky.
        num_steps: of Adam.
        batch_size: cases per step.
        learning_rate: of Adam.
        num_draws: Monte-Carlo draws per step.
        seed: of everything random.
        progress: show a progress bar on a terminal.
    """
    num_steps = check_integer("num_steps", num_steps, 1)
    data = GPData.checked(kernel, x, labels.double(), standardize=False)
    count, classes = len(labels), int(labels.max()) + 1
    batch = min(check_integer("batch_size", batch_size, 1), count)
    with torch.no_grad():
        inducing = choose_inducing(
            kernel, data.x, check_integer("num_inducing", num_inducing, 1)
        )
        factor = jittered_cholesky(gram(kernel, inducing))
        a = _project(kernel, factor, inducing, data.x)
        rest = (variances(kernel, data.x) - a.square().sum(0)).clamp_min(0)
    parameters = _initial(classes, len(inducing), scale_prior)
    family = _Family(parameters, scale_prior)
    trained = [p.requires_grad_() for n, p in parameters.items() if family.is_free(n)]
    optimizer = torch.optim.Adam(trained, lr=check_positive("learning_rate", learning_rate))
    noise, rows = generator(seed, Stream.NOISE), generator(seed, Stream.BATCH)
    trace: list[float] = []
    for _ in tqdm(range(num_steps), desc="svi", disable=None if progress else True):
        some = torch.randperm(count, generator=rows)[:batch]
        logits = family.latents(a[:, some], rest[some], num_draws, noise)
        fit = _log_softmax(logits, labels[some]).mean()
        elbo = fit - family.divergence() / count
        optimizer.zero_grad()
        (-elbo).backward()  # pyright: ignore[reportUnknownMemberType]
        optimizer.step()
        trace.append(float(elbo.detach()))
    final = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        family = _Family(final, scale_prior)
        parts = [
            _log_softmax(
                family.latents(a[:, i], rest[i], _EVALUATION_DRAWS, noise), labels[i]
            ).sum()
            for i in torch.arange(count).split(256)
        ]
        elbo = float(
            (torch.stack(parts).sum() / _EVALUATION_DRAWS - family.divergence()) / count
        )
    return VariationalClassifierPosterior(
        kernel, scale_prior, inducing, final, torch.tensor(trace, dtype=torch.float64), "svi",
        {"elbo_per_case": elbo, "num_steps": num_steps},
    )  # fmt: skip


class _Family:
    """The variational family, from its parameters."""

    def __init__(self, parameters: dict[str, Tensor], scale_prior: ScalePrior) -> None:
        self._p, self._prior = parameters, scale_prior
        self._known = isinstance(scale_prior, PointMass)

    def is_free(self, name: str) -> bool:
        """Whether a parameter is optimised."""
        return name != "scale" or not self._known

    def log_scale(self, draws: int, noise: Generator) -> Tensor:
        """Draws of ln σ² from q."""
        if self._known:
            return torch.full((draws,), self._prior.center, dtype=torch.float64)
        mean, log_sd = self._p["scale"]
        return mean + log_sd.exp() * torch.randn(draws, generator=noise, dtype=torch.float64)

    def latents(self, a: Tensor, rest: Tensor, draws: int, noise: Generator) -> Tensor:
        """Draws of f, `(draws, cases, classes)`."""
        mean = a.T @ self._p["mean"].T
        root = self._root()
        spread = (root.mT @ a).square().sum(1).T + rest[:, None]
        z = torch.randn(draws, *mean.shape, generator=noise, dtype=torch.float64)
        amplitude = (self.log_scale(draws, noise) + self._p["log_amplitude"]) / 2
        return amplitude.exp()[:, None, None] * (mean + spread.sqrt() * z)

    def divergence(self) -> Tensor:
        """KL of q from the prior."""
        mean, root = self._p["mean"], self._root()
        diagonal = root.diagonal(dim1=-2, dim2=-1)
        total = (root.square().sum() + mean.square().sum() - mean.numel()) / 2
        total = total - diagonal.log().sum()
        if self._known:
            return total
        center, log_sd = self._p["scale"]
        nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(40))
        prior = self._prior.log_prob_log(center + log_sd.exp() * nodes)
        entropy = log_sd + math.log(2 * math.pi * math.e) / 2
        return total - entropy - (weights * prior).sum() / math.sqrt(2 * math.pi)

    def _root(self) -> Tensor:
        """Lower triangular factors of S, `(C, M, M)`; logarithms are on the diagonal."""
        raw = self._p["factor"]
        diagonal = raw.diagonal(dim1=-2, dim2=-1).exp()
        return raw.tril(-1) + torch.diag_embed(diagonal)


def _initial(classes: int, size: int, prior: ScalePrior) -> dict[str, Tensor]:
    options: dict[str, Any] = {"dtype": torch.float64}
    return {
        "mean": torch.zeros(classes, size, **options),
        "factor": _START * torch.eye(size, **options).repeat(classes, 1, 1),
        "scale": torch.tensor([prior.center, math.log(0.3)], **options),
        "log_amplitude": torch.zeros((), **options),
    }


@torch.no_grad()
def _project(kernel: Kernel, factor: Tensor, inducing: Tensor, x: Tensor) -> Tensor:
    """L⁻¹K_ZX, shape `(M, n)`."""
    return torch.linalg.solve_triangular(factor, gram(kernel, inducing, x), upper=False)


def _log_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Log probability of each case's label, `(draws, cases)`."""
    return logits.log_softmax(-1).gather(-1, labels.expand(len(logits), -1)[..., None])[..., 0]
