"""What every prior over weights is, and the Gaussian one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from inference._checks import check_choice, check_integer
from inference.rng import Stream, scoped_seed, stream_seed
from probnet._checks import Values, check_matrix
from probnet.bnn.networks import BayesianNetwork

Latents = dict[str, Tensor]

_FUNCTION_VALUES = 1 << 24  # hidden activations in memory at once


def unflatten(vector: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Weights `(*batch, *shape)` by name from their concatenation `(*batch, P)`."""
    sizes = [shape.numel() for shape in shapes.values()]
    pieces = vector.split(sizes, dim=-1)
    return {
        name: piece.reshape(*vector.shape[:-1], *shape)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }


def flatten(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> Tensor:
    """The inverse of `unflatten`: `(*batch, P)`."""
    return torch.cat(
        [
            weights[name].reshape(*_batch(weights[name], shape), -1)
            for name, shape in shapes.items()
        ],
        dim=-1,
    )


def _batch(value: Tensor, shape: Sequence[int]) -> torch.Size:
    return value.shape[: value.ndim - len(shape)]


@dataclass(frozen=True, eq=False)
class WeightPrior(ABC):
    """A law of a network's weights, written as weights = G(latents; hyper-parameters).

    Among the latents, `"z"` is standard normal; families may add others with laws of their own.
    Sampling the latents instead of the weights (the non-centred form) keeps the posterior's
    geometry of order one whatever the scales.

    Attributes:
        network: whose weights these are.
        hyperparameters: by name; float64.
    """

    family: ClassVar[str]

    network: BayesianNetwork
    hyperparameters: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        """Freeze the hyper-parameters."""
        values = {n: torch.as_tensor(v).double() for n, v in self.hyperparameters.items()}
        object.__setattr__(self, "hyperparameters", MappingProxyType(values))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its fields: a read-only mapping has no pickle of its own."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["hyperparameters"] = dict(self.hyperparameters)
        return partial(type(self), **values), ()

    @property
    @abstractmethod
    def stds(self) -> dict[str, Any]:
        """Standard deviation of the entries of each weight matrix and bias vector, by name."""

    @property
    def num_latents(self) -> int:
        """Length of `"z"`."""
        return sum(shape.numel() for shape in self.network.shapes.values())

    @property
    def latent_laws(self) -> dict[str, dist.TorchDistribution]:
        """Laws of the latents beside `"z"`."""
        return {}

    @abstractmethod
    def weights(self, latents: Latents) -> dict[str, Tensor]:
        """Weights `(*batch, *shape)` of latents with the same leading axes.

        Differentiable in latents and hyper-parameters, and safe under `torch.func.vmap`.
        """

    def log_prob(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Log density of weights, shape `batch`.

        Raises:
            ValueError: if the family's density has no closed form.
        """
        raise ValueError(
            f"family={self.family!r} has no closed-form density of its weights: sample the "
            f"latents (centered=False), whose density `log_prior` is."
        )

    def log_prior(self, latents: Latents) -> Tensor:
        """Unnormalised log density of the latents of one network, a scalar."""
        total = -0.5 * latents["z"].square().sum()
        for name, law in self.latent_laws.items():
            total = total + law.log_prob(latents[name]).sum()
        return total

    def draw_latents(self, num_samples: int, *, seed: int) -> Latents:
        """Latents of independent networks, `(num_samples, *shape)`, float64.

        Equal seeds give common random numbers whatever the hyper-parameters; the result is
        differentiable in them.
        """
        check_integer("num_samples", num_samples, 1)
        with scoped_seed(stream_seed(check_integer("seed", seed, 0), Stream.INIT)):
            latents = {"z": torch.randn(num_samples, self.num_latents, dtype=torch.float64)}
            for name, law in self.latent_laws.items():
                latents[name] = law.rsample(torch.Size((num_samples,)))
        return latents

    def sample(self, num_samples: int, *, seed: int = 0) -> dict[str, Tensor]:
        """Weights of independent networks, `(num_samples, *shape)` by name."""
        return self.weights(self.draw_latents(num_samples, seed=seed))

    def functions(self, x: Values, num_samples: int, *, seed: int = 0) -> Tensor:
        """Random functions of the prior at inputs x, which are in standardised units.

        Args:
            x: inputs `(n, d)`.
            num_samples: number of functions S.
            seed: equal seeds give equal functions.

        Returns:
            Values `(S, n)`, or `(S, n, output_dim)` for more than one output; float64.
        """
        inputs = check_matrix("x", x, self.network.input_dim)
        latents = self.draw_latents(num_samples, seed=seed)
        return self.function_values(inputs, latents)

    def function_values(self, x: Tensor, latents: Latents) -> Tensor:
        """Functions `(S, n)` or `(S, n, output_dim)` of latents, a few networks at a time."""
        width = max(max(shape) for shape in self.network.shapes.values())
        block = max(1, _FUNCTION_VALUES // (len(x) * width))
        count = len(latents["z"])
        pieces = [
            self.network.functions(
                x, self.weights({n: v[start : start + block] for n, v in latents.items()})
            )
            for start in range(0, count, block)
        ]
        values = torch.cat(pieces)
        return values.squeeze(-1) if self.network.output_dim == 1 else values

    def sample_weights(self) -> dict[str, Tensor]:
        """Inside a Pyro model: sites of the latents, and the weights as deterministic sites."""
        normal: Any = dist.Normal(torch.zeros(self.num_latents), 1.0)
        latents: Latents = {"z": pyro.sample("z", normal.to_event(1))}
        for name, law in self.latent_laws.items():
            latents[name] = pyro.sample(name, law.to_event(len(law.batch_shape)))
        return {
            name: pyro.deterministic(name, value)
            for name, value in self.weights(latents).items()
        }

    def is_positive(self, name: str) -> bool:
        """Whether a hyper-parameter is positive, and optimised as its logarithm."""
        return True

    def free(self) -> dict[str, Tensor]:
        """The hyper-parameters on the whole line, detached."""
        return {
            name: (value.log() if self.is_positive(name) else value).detach().clone()
            for name, value in self.hyperparameters.items()
        }

    def with_free(self, free: Mapping[str, Tensor]) -> Self:
        """The prior with other hyper-parameters, given on the whole line; keeps gradients."""
        values = {n: v.exp() if self.is_positive(n) else v for n, v in free.items()}
        return replace(self, hyperparameters=values)

    def options(self) -> dict[str, Any]:
        """JSON-able settings that are neither network nor hyper-parameters."""
        return {}


@dataclass(frozen=True, eq=False)
class GaussianPrior(WeightPrior):
    """W_l ~ N(0, σ²_{w,l}), b_l ~ N(0, σ²_{b,l}), independent entries.

    Source: Tran, Rossi, Milios & Filippone (JMLR 2022), GPi-G; with all σ = 1 their FG.

    Attributes:
        network: whose weights these are.
        hyperparameters: σ by the name of the weight: one number, or one per entry (of any shape
            that broadcasts to the weight's).
    """

    family: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        """Check names, shapes and signs."""
        super().__post_init__()
        check_names(self.hyperparameters, self.network.shapes, "stds")
        for name, value in self.hyperparameters.items():
            check_positive_entries(f"stds[{name!r}]", value)
            value.broadcast_to(self.network.shapes[name])

    @property
    def stds(self) -> dict[str, Any]:
        """σ by name: a float, or a nested list if the entries differ."""
        return {name: value.tolist() for name, value in self.hyperparameters.items()}

    def weights(self, latents: Latents) -> dict[str, Tensor]:
        """See `WeightPrior.weights`."""
        return unflatten(
            latents["z"] * self._scales().to(latents["z"].dtype), self.network.shapes
        )

    def log_prob(self, weights: Mapping[str, Tensor]) -> Tensor:
        """See `WeightPrior.log_prob`."""
        flat = flatten(weights, self.network.shapes)
        z = flat / self._scales().to(flat.dtype)
        constant = self._scales().log().sum() + z.shape[-1] / 2 * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - constant

    def _scales(self) -> Tensor:
        return torch.cat(
            [
                self.hyperparameters[name].broadcast_to(shape).reshape(-1)
                for name, shape in self.network.shapes.items()
            ]
        )


def check_names(given: Mapping[str, Any], shapes: Mapping[str, Any], what: str) -> None:
    """Raise unless there is one value per weight of the network."""
    for name in given:
        check_choice(f"a name in {what}", name, shapes)
    missing = [name for name in shapes if name not in given]
    if missing:
        raise ValueError(f"`{what}` must have a value for every weight; {missing} lack one.")


def check_positive_entries(name: str, value: Tensor) -> None:
    """Raise unless all entries are finite and above zero."""
    bad = ~((value > 0) & value.isfinite())
    if bool(bad.any()):
        raise ValueError(
            f"`{name}` must be finite and > 0; got {value[bad].flatten()[0].item():g}."
        )
