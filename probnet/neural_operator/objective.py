"""The evidence lower bound with the PDE as a virtual observation, and its Pyro model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from probnet.neural_operator.inputs import InputLikelihood
from probnet.neural_operator.networks import OperatorNetworks, SolutionAt
from probnet.neural_operator.problem import Problem
from probnet.neural_operator.weak_form import candidate_gradient, weak_residuals
from probnet.neural_operator.wendland import WendlandTests

Physics = Callable[[OperatorNetworks, Tensor, Tensor], Tensor]
"""Networks, latent vectors (B, d), coefficients of B inputs to a loss (B,)."""


class MeshPhysics:
    """`Problem.loss` at the nodes of its mesh: an energy, or half a squared dual norm."""

    def __init__(self, problem: Problem, dtype: torch.dtype, device: torch.device) -> None:
        nodes = problem.nodes.to(device)
        self._problem = problem
        self._at_nodes = SolutionAt(problem, nodes.to(dtype))
        self.num_residuals = int((problem.mollifier(nodes) > 0).sum())

    def __call__(
        self, networks: OperatorNetworks, latents: Tensor, coefficients: Tensor
    ) -> Tensor:
        """The loss of û, `(B,)`."""
        values = self._at_nodes(networks.solution_decoder, latents, coefficients)
        return self._problem.loss(values, coefficients)

    def excess(
        self, networks: OperatorNetworks, latents: Tensor, coefficients: Tensor, least: Tensor
    ) -> Tensor:
        """The loss of û above `least`, that of the solutions, in float64: no cancellation."""
        values = self._at_nodes(networks.solution_decoder, latents, coefficients)
        return self._problem.loss(values.double(), coefficients.double()) - least


class WeakPhysics:
    """½ Σ_j r_j² over random test functions, the same for all inputs of a batch."""

    def __init__(
        self, problem: Any, tests: WendlandTests, generator: torch.Generator, dtype: torch.dtype
    ) -> None:
        self._problem, self._tests = problem, tests
        self._generator, self._dtype = generator, dtype
        self.num_residuals = tests.num_centres

    def __call__(
        self, networks: OperatorNetworks, latents: Tensor, coefficients: Tensor
    ) -> Tensor:
        """The loss of û at fresh centres, `(B,)`."""
        pde, tests = self._problem, self._tests
        centres = tests.draw_centres(pde.lower, pde.upper, self._generator, dtype=self._dtype)
        points = tests.points(centres)
        flat = points.flatten(0, 1)
        decoder: Any = networks.solution_decoder  # scalar, as the problem is
        values, slopes = decoder.value_and_gradient(flat, latents)
        gradient = candidate_gradient(pde, flat, values, slopes, coefficients)
        residuals = weak_residuals(pde, tests, points, gradient, coefficients)
        return residuals.square().sum(-1) / 2

    def excess(
        self, networks: OperatorNetworks, latents: Tensor, coefficients: Tensor, least: Tensor
    ) -> Tensor:
        """The loss of û: that of the solutions is 0."""
        return self(networks, latents, coefficients).double() - least


class Terms(NamedTuple):
    """What the bound consists of, one value per input, `(B,)`.

    Attributes:
        log_likelihood: log p(x | z) of a draw z.
        physics: the loss ℓ of û(z).
        kl: KL(q ‖ p(z)); zero for a deterministic encoder, whose prior is flat.
        latents: the draw, `(B, d)`.
    """

    log_likelihood: Tensor
    physics: Tensor
    kl: Tensor
    latents: Tensor


@dataclass(frozen=True, eq=False)
class Bound:
    r"""E_q[log p(x | z) + (M/2) log λ - λ ℓ(û(z), x)] - β KL(q(z | x) ‖ N(0, I)).

    The PDE is a virtual observation of precision λ: ℓ is half a sum of M squared residuals or
    an energy above its minimum, of which the unknown constant is left out.

    Attributes:
        networks: encoder and decoders.
        problem: the PDE.
        likelihood: p(x | z).
        physics: ℓ.
        num_residuals: M.
    """

    networks: OperatorNetworks
    problem: Problem
    likelihood: InputLikelihood
    physics: Physics
    num_residuals: int

    def terms(self, inputs: Tensor, noise: Tensor, temperature: float) -> Terms:
        """One draw of what the expectation is of, reparametrised.

        Args:
            inputs: x, `(B, m)`.
            noise: standard normal, `(B, d)`.
            temperature: of the input likelihood.
        """
        encoding = self.networks.encode(inputs)
        latents = encoding.draw(noise)
        field = self.networks.input_field(latents, self.likelihood)
        gaussian = self.networks.encoder.law == "gaussian"
        return Terms(
            self.likelihood.log_prob(field, inputs, temperature),
            self.physics(self.networks, latents, self.coefficients(inputs)),
            encoding.kl() if gaussian else latents.new_zeros(len(latents)),
            latents,
        )

    def value(self, terms: Terms, precision: float, beta: float = 1.0) -> Tensor:
        """The bound, averaged over the inputs.

        Args:
            terms: of a batch.
            precision: λ.
            beta: weight of the KL term, below 1 while it is warmed up.
        """
        virtual = self.num_residuals / 2 * math.log(precision) - precision * terms.physics
        return (terms.log_likelihood + virtual - beta * terms.kl).mean()

    def coefficients(self, inputs: Tensor) -> Tensor:
        """The problem's coefficients of inputs `(B, m)`."""
        return self.problem.coefficients(inputs.unflatten(-1, self.networks.encoder.grid))

    def pyro_model(
        self, inputs: Tensor, precision: float, temperature: float = 1.0, beta: float = 1.0
    ) -> None:
        """The generative model as a Pyro program: sites `z`, `x` and the factor `pde`.

        Args:
            inputs: x, `(B, m)`.
            precision: λ.
            temperature: of the input likelihood.
            beta: scales the density of `z`.
        """
        dim, count = self.networks.latent_dim, len(inputs)
        with pyro.plate("inputs", count):
            with pyro.poutine.scale(scale=beta):
                prior = dist.Normal(inputs.new_zeros(dim), 1.0).to_event(1)
                z = pyro.sample("z", prior)
            law: Any = self.likelihood.distribution(
                self.networks.input_field(z, self.likelihood), temperature
            )
            pyro.sample("x", law.to_event(1), obs=self.likelihood.targets(inputs))
            loss = self.physics(self.networks, z, self.coefficients(inputs))
            pyro.factor("pde", self.num_residuals / 2 * math.log(precision) - precision * loss)

    def pyro_guide(
        self, inputs: Tensor, precision: float, temperature: float = 1.0, beta: float = 1.0
    ) -> None:
        """The encoder as the guide of `pyro_model`; a Gaussian encoder is needed."""
        del precision, temperature
        encoding = self.networks.encode(inputs)
        with pyro.plate("inputs", len(inputs)), pyro.poutine.scale(scale=beta):
            pyro.sample("z", dist.Normal(encoding.mean, encoding.scale).to_event(1))


def learned_precision(excess: Tensor, num_residuals: int) -> float:
    """The mean of λ given losses of V inputs: (a₀ + VM/2)/(b₀ + Σ ℓ), a₀ = b₀ = 10⁻⁹.

    λ ~ Gamma(a₀, b₀) is conjugate to exp(-λℓ) λ^(M/2).

    Args:
        excess: ℓ of each input, >= 0, `(V,)`.
        num_residuals: M.
    """
    vague = 1e-9
    return (vague + len(excess) * num_residuals / 2) / (vague + float(excess.sum()))
