"""A prior on latent vectors: a Gaussian or a normalising flow, fitted to encoded inputs."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from tqdm.auto import tqdm

from inference._checks import check_choice, check_integer
from inference.rng import Stream, scoped_seed, stream_seed
from probnet._checks import as_tensor
from probnet.linalg import shrunk_covariance

FLOWS = ("gaussian", "nsf", "realnvp")
_BATCH = 256
_LOG_2PI = math.log(2 * math.pi)
_FEW = 4  # latents per dimension, below which their covariance is shrunk
_JITTER = 1e-6  # of the covariance, relative to its mean diagonal
_CHECK_EVERY = 50
_PATIENCE = 6  # checks without a better held-out density before training ends
_LEARNING_RATE = 1e-3


class LatentPrior(nn.Module):
    r"""z = m + L F(w), w ~ N(0, I), with coupling layers F; density and draws are exact.

    m and LLᵀ are the mean and the covariance of the latents, so that F = id, `"gaussian"`, is
    the Gaussian of these moments, and layers only have to model what it leaves. Latents of
    inputs are strongly correlated: scaling them one by one would not do.

    Both directions of a coupling layer cost two passes, so that inversion may move w and
    differentiate through F.

    Source: Durkan et al. (NeurIPS 2019) for `"nsf"`, Dinh et al. (ICLR 2017) for `"realnvp"`;
    implemented by zuko.

    Args:
        dim: of z.
        flow: `"gaussian"`, `"nsf"` or `"realnvp"`.
        num_transforms: layers.
        hidden: widths of the hidden layers of the networks inside.
    """

    mean: Tensor
    factor: Tensor

    def __init__(
        self,
        dim: int,
        flow: str = "nsf",
        num_transforms: int = 5,
        hidden: tuple[int, ...] = (64, 64),
    ) -> None:
        super().__init__()
        self.dim, self.flow = dim, check_choice("flow", flow, FLOWS)
        self.num_transforms = check_integer("num_transforms", num_transforms, 1)
        self.hidden = tuple(hidden)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("factor", torch.eye(dim))
        self.transforms = None
        if flow == "nsf":
            self.transforms = _flows().NSF(
                dim, transforms=num_transforms, hidden_features=hidden, passes=2
            )
        elif flow == "realnvp":
            self.transforms = _flows().RealNVP(
                dim, transforms=num_transforms, hidden_features=hidden
            )

    def options(self) -> dict[str, Any]:
        """The arguments that make a prior of this form; JSON-able."""
        return {
            "dim": self.dim,
            "flow": self.flow,
            "num_transforms": self.num_transforms,
            "hidden": list(self.hidden),
        }

    def to_latent(self, base: Tensor) -> Tensor:
        """The latents z of base vectors w, both `(B, dim)`; differentiable."""
        inner = base if self.transforms is None else self._law().transform.inv(base)
        return self.mean + inner @ self.factor.T

    def to_base(self, latents: Tensor) -> Tensor:
        """The base vectors w of latents z, both `(B, dim)`; differentiable."""
        inner = self._whiten(latents)
        return inner if self.transforms is None else self._law().transform(inner)

    def log_prob(self, latents: Tensor) -> Tensor:
        """Log density of latent vectors, `(B,)`."""
        inner = self._whiten(latents)
        if self.transforms is None:
            values = -(inner.square().sum(-1) + self.dim * _LOG_2PI) / 2
        else:
            values = self._law().log_prob(inner)
        return values - self.factor.diagonal().log().sum()

    def _whiten(self, latents: Tensor) -> Tensor:
        difference = (latents - self.mean).T
        return torch.linalg.solve_triangular(self.factor, difference, upper=False).T

    def _law(self) -> Any:
        transforms: Any = self.transforms
        return transforms()


def _flows() -> Any:
    """The flows of zuko, whose import ends the validation of everybody's distributions."""
    validates = Distribution._validate_args  # pyright: ignore[reportPrivateUsage]
    try:
        return importlib.import_module("zuko.flows")
    finally:
        Distribution.set_default_validate_args(validates)


def prior_from_options(options: Mapping[str, Any]) -> LatentPrior:
    """A prior of a described form, its weights yet to be loaded."""
    arguments: dict[str, Any] = {**options, "hidden": tuple(options["hidden"])}
    with scoped_seed(0):  # of weights that are replaced
        return LatentPrior(**arguments)


def fit_latent_prior(
    latents: Tensor,
    *,
    flow: str,
    num_transforms: int = 5,
    hidden: tuple[int, ...] = (64, 64),
    num_steps: int = 3000,
    seed: int = 0,
    progress: bool = False,
) -> tuple[LatentPrior, dict[str, float]]:
    """Fit a prior by maximum likelihood; a fifth of the latents says when to stop.

    The weights with the highest held-out log density are kept.

    Args:
        latents: draws of q(z | x) of inputs, `(N, dim)`.
        flow: `"nsf"` or `"realnvp"`.
        num_transforms: layers.
        hidden: widths inside.
        num_steps: of Adam, at most.
        seed: of the initial weights and the minibatches.
        progress: show a progress bar on a terminal.

    Returns:
        The prior, in float64, and mean held-out log densities of it and of the Gaussian.

    Raises:
        ValueError: on fewer than ten latent vectors.
    """
    values = as_tensor("latents", latents).float()
    if len(values) < 10:
        raise ValueError(f"`latents` must hold at least 10 vectors; got {len(values)}.")
    with scoped_seed(stream_seed(seed, Stream.INIT)):
        prior = LatentPrior(values.shape[1], flow, num_transforms, hidden)
        held_out, train = values.split([len(values) // 5, len(values) - len(values) // 5])
        _take_moments(prior, train)
        gaussian = LatentPrior(values.shape[1], "gaussian")
        _take_moments(gaussian, train)
        best = baseline = float(gaussian.log_prob(held_out).mean())
        if flow == "gaussian":
            _take_moments(prior, values)
        else:
            best = _maximise(prior, train, held_out, num_steps, progress=progress)
    found = {"held_out_log_density": best, "held_out_log_density_gaussian": baseline}
    return prior.double().eval().requires_grad_(False), found


def _take_moments(prior: LatentPrior, latents: Tensor) -> None:
    """Mean and covariance of latents (N, dim), shrunk where N is small."""
    wide = latents.double()
    matrix = wide.T.cov()
    if len(wide) < _FEW * wide.shape[1]:
        matrix, _ = shrunk_covariance(wide - wide.mean(0))
    jitter = _JITTER * matrix.diagonal().mean() + torch.finfo(torch.float32).tiny
    matrix = matrix + jitter * torch.eye(len(matrix), dtype=matrix.dtype)
    prior.mean.copy_(wide.mean(0))
    prior.factor.copy_(torch.linalg.cholesky(matrix))


def _maximise(
    prior: LatentPrior, train: Tensor, held_out: Tensor, num_steps: int, *, progress: bool
) -> float:
    """Train in place; the best held-out log density, whose weights are kept."""
    optimizer = torch.optim.Adam(prior.parameters(), lr=_LEARNING_RATE)
    best, waited = -torch.inf, 0
    kept = {name: value.clone() for name, value in prior.state_dict().items()}
    bar = tqdm(range(num_steps), desc="prior", disable=None if progress else True)
    for step in bar:
        if step % _CHECK_EVERY == 0:
            with torch.no_grad():
                found = float(prior.log_prob(held_out).mean())
            waited += 1
            if found > best:
                best, waited = found, 0
                kept = {name: value.clone() for name, value in prior.state_dict().items()}
            if waited >= _PATIENCE:
                break
        batch = train[torch.randint(len(train), (min(_BATCH, len(train)),))]
        loss = -prior.log_prob(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    prior.load_state_dict(kept)
    return best
