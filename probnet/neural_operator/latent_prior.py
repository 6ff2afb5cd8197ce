"""A prior on latent vectors: a normalising flow fitted to encoded inputs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from tqdm.auto import tqdm

from inference._checks import check_choice, check_integer
from inference.rng import Stream, scoped_seed, stream_seed
from probnet._checks import as_tensor

FLOWS = ("nsf", "realnvp")
_BATCH = 256
_CHECK_EVERY = 50
_PATIENCE = 6  # checks without a better held-out density before training ends
_LEARNING_RATE = 1e-3


class LatentPrior(nn.Module):
    r"""z = m + s ∘ F(w), w ~ N(0, I), with coupling layers F; density and draws are exact.

    Both directions of a coupling layer cost two passes, so that inversion may move w and
    differentiate through F.

    Source: Durkan et al. (NeurIPS 2019) for `"nsf"`, Dinh et al. (ICLR 2017) for `"realnvp"`;
    implemented by zuko.

    Args:
        dim: of z.
        flow: `"nsf"` or `"realnvp"`.
        num_transforms: layers.
        hidden: widths of the hidden layers of the networks inside.
    """

    mean: Tensor
    scale: Tensor

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
        self.register_buffer("scale", torch.ones(dim))
        if flow == "nsf":
            self.transforms = _flows().NSF(
                dim, transforms=num_transforms, hidden_features=hidden, passes=2
            )
        else:
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
        transform: Any = self.transforms().transform
        return self.mean + self.scale * transform.inv(base)

    def to_base(self, latents: Tensor) -> Tensor:
        """The base vectors w of latents z, both `(B, dim)`; differentiable."""
        transform: Any = self.transforms().transform
        return transform((latents - self.mean) / self.scale)

    def log_prob(self, latents: Tensor) -> Tensor:
        """Log density of latent vectors, `(B,)`."""
        law: Any = self.transforms()
        return law.log_prob((latents - self.mean) / self.scale) - self.scale.log().sum()


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
    num_transforms: int,
    hidden: tuple[int, ...],
    num_steps: int,
    seed: int,
    progress: bool,
) -> tuple[LatentPrior, dict[str, float]]:
    """Fit a flow by maximum likelihood; a fifth of the latents, held out, decides when to stop.

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
        The prior, in float64, and mean held-out log densities of it and of a diagonal Gaussian.

    Raises:
        ValueError: on fewer than ten latent vectors.
    """
    values = as_tensor("latents", latents).float()
    if len(values) < 10:
        raise ValueError(f"`latents` must hold at least 10 vectors; got {len(values)}.")
    with scoped_seed(stream_seed(seed, Stream.INIT)):
        prior = LatentPrior(values.shape[1], flow, num_transforms, hidden)
        held_out, train = values.split([len(values) // 5, len(values) - len(values) // 5])
        scale, mean = torch.std_mean(train, dim=0)
        prior.mean.copy_(mean)
        prior.scale.copy_(scale.clamp_min(1e-6))
        gaussian = torch.distributions.Normal(prior.mean, prior.scale)
        baseline = float(gaussian.log_prob(held_out).sum(-1).mean())
        best = _maximise(prior, train, held_out, num_steps, progress=progress)
    found = {"held_out_log_density": best, "held_out_log_density_gaussian": baseline}
    return prior.double().eval().requires_grad_(False), found


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
