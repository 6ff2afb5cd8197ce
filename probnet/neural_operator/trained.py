"""A trained generative operator: the forward map, its law, and the prior on inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution, LowRankMultivariateNormal, Normal

from inference._checks import check_integer
from inference.export import build_datatree
from inference.rng import Stream, generator
from probnet._archive import PosteriorState
from probnet._checks import Values, as_tensor, check_shape
from probnet.metrics import relative_l2
from probnet.neural_operator.encoders import Encoding
from probnet.neural_operator.galerkin import GalerkinBasis
from probnet.neural_operator.inputs import (
    InputLikelihood,
    TwoPhase,
    check_inputs,
)
from probnet.neural_operator.latent import Readout
from probnet.neural_operator.latent_prior import (
    LatentPrior,
    fit_latent_prior,
)
from probnet.neural_operator.networks import (
    OperatorNetworks,
    SolutionAt,
)
from probnet.neural_operator.objective import Bound, MeshPhysics
from probnet.neural_operator.prior_checks import compare_inputs
from probnet.neural_operator.problem import Problem
from probnet.neural_operator.solution_error import SolutionError
from probnet.neural_operator.trained_state import fields_of_state, to_state
from probnet.posterior import Posterior
from probnet.predictive import DrawsMixture

if TYPE_CHECKING:
    import xarray

_NUM_PAIRS = 4  # antithetic pairs of draws of q(z | x) in a predictive law
_CACHED = 4  # sets of points whose features are kept
_BLOCK = 256  # inputs decoded at once
_PRIOR_DRAWS = 100


@dataclass(frozen=True, eq=False, repr=False)
class TrainedOperator(Posterior, family="neural_operator"):
    """Networks with their weights. They compute in float64 and are stored in float32.

    Attributes:
        problem: the PDE.
        networks: encoder and decoders.
        likelihood: of inputs.
        precision: λ, of the virtual observations, at the end of training.
        error: law of û - u* on validation inputs.
        validation: those inputs `(V, *grid)`, not trained on.
        latents: draws of q(z | x) of training inputs, which `fit_prior` fits; None once it has.
        curve: the bound at every step.
        method: how the networks were trained.
        diagnostics: settings, steps, validation errors.
        prior: law of z, fitted to latents; None: N(0, I).
    """

    problem: Problem
    networks: OperatorNetworks
    likelihood: InputLikelihood
    precision: float
    error: SolutionError
    validation: Tensor
    latents: Tensor | None
    curve: Tensor
    method: str
    diagnostics: Mapping[str, Any]
    prior: LatentPrior | None = None
    _cache: dict[bytes, tuple[SolutionAt, Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def input_grid(self) -> tuple[int, ...]:
        """Nodes of an input along each axis."""
        return self.networks.encoder.grid

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        return self.networks.latent_dim

    def predict(
        self,
        x: Values,
        points: Values | None = None,
        *,
        observation: bool = True,
        joint: bool = False,
    ) -> Distribution:
        """The law of the solution of new inputs at points.

        A mixture over antithetic draws of q(z | x). Its mean is that of the network.

        Args:
            x: inputs, `(*batch, *input_grid)` or `(*batch, m)`.
            points: ξ, (n, d_x) in the domain; `None`: the mesh's nodes.
            observation: the law of the exact discrete solution: the network's error, as seen
                on validation inputs, is added. `False`: of û alone.
            joint: one density for all points, whose samples are functions; for a scalar
                solution.

        Returns:
            Batch shape `(*batch, n)`, or `(*batch, n, c)` for c components.

        Raises:
            ValueError: on inputs of another grid or impossible values, points outside the
                domain, or a joint law of several components.
        """
        rows, batch = self._inputs("x", x)
        where = self._points(points)
        with torch.no_grad():
            latents = self._antithetic(self.networks.encode(rows))
            coefficients = self._coefficients(rows)
            draws = [self._solution(z, coefficients, where) for z in latents]
        loc = torch.stack(draws).reshape(len(draws), *batch, *draws[0].shape[1:])
        if joint:
            return DrawsMixture(self._joint_law(loc, where, observation=observation))
        scale = self.error.scale(self.problem, where)
        if not observation:
            scale = torch.full_like(scale, 1e-6) * loc.square().mean().sqrt()
        return DrawsMixture(Normal(loc, scale.expand_as(loc), validate_args=False))

    def encode(self, x: Values) -> Encoding:
        """q(z | x) of inputs `(*batch, *input_grid)`, with rows (B, latent_dim)."""
        rows, _ = self._inputs("x", x)
        with torch.no_grad():
            return self.networks.encode(rows)

    def decode_input(self, latents: Tensor) -> Tensor:
        """a(z), `(B, *input_grid)`, of latent vectors (B, latent_dim)."""
        field_values = self.networks.input_field(self._latents(latents), self.likelihood)
        return self.likelihood.decode(field_values).unflatten(-1, self.input_grid)

    def phase_logits(self, latents: Tensor) -> Tensor:
        """A(z), `(B, *input_grid)`: its sign, for two phases, is the phase."""
        field_values = self.networks.input_field(self._latents(latents), self.likelihood)
        return field_values.unflatten(-1, self.input_grid)

    def decode_solution(self, latents: Tensor, points: Values | None = None) -> Tensor:
        """û(ξ; z), (B, n) or (B, n, c), differentiable; the trunk's features are kept.

        Where the ansatz depends on the input, that is the decoded one.

        Args:
            latents: z, (B, latent_dim).
            points: ξ, (n, d_x) in the domain; `None`: the mesh's nodes.
        """
        z = self._latents(latents)
        coefficients = self.problem.coefficients(self.decode_input(z))
        return self._solution(z, coefficients, self._points(points))

    def coefficients(self, latents: Tensor) -> Tensor:
        """C(z) of û(ξ; z) = ⟨T(ξ), C(z)⟩ + t(ξ), (B, num_features); differentiable.

        Where given values depend on the input, the problem's coefficients of a(z) come last.
        """
        z = self._latents(latents)
        branch = self.networks.solution_decoder.coefficients(z)
        if not self.problem.num_given_values:
            return branch
        return torch.cat([branch, self.problem.given_values(self.decode_input(z))], -1)

    def readout(self, points: Values | None = None) -> Readout:
        """T and t at points (n, d_x), mollifier and lifting included.

        Raises:
            ValueError: for several components.
        """
        self._check_scalar("a readout")
        where = self._points(points)
        _, features = self._at(where)
        mollifier, lifting = self.problem.mollifier(where), self.problem.lifting(where)
        decoder: Any = self.networks.solution_decoder
        features, offset = mollifier[:, None] * features, mollifier * decoder.bias + lifting
        if self.problem.num_given_values:
            unit = torch.eye(self.problem.num_given_values, dtype=torch.float64)
            without = torch.zeros(len(unit), len(where), dtype=torch.float64)
            added = self.problem.ansatz(where)(without, unit) - lifting
            features = torch.cat([features, added.T], 1)
        return Readout(features, offset)

    def to_latent(self, base: Tensor) -> Tensor:
        """The latents of base vectors w ~ N(0, I), (B, latent_dim); differentiable."""
        return base if self.prior is None else self.prior.to_latent(base)

    def fit_prior(
        self,
        flow: str = "nsf",
        num_transforms: int = 5,
        *,
        hidden: tuple[int, ...] = (64, 64),
        num_steps: int = 3000,
        inputs: Values | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> TrainedOperator:
        """This operator with another prior on z, fitted to latents of training inputs.

        Encoded inputs do not fill N(0, I), whose draws therefore decode to nonsense. Training
        ends with the Gaussian of their mean and covariance; a flow models what that leaves.

        Args:
            flow: `"gaussian"`, `"nsf"` or `"realnvp"`; compare
                `diagnostics["held_out_log_density"]` with that of the Gaussian, which is the
                fastest in inversion.
            num_transforms: its layers.
            hidden: widths inside.
            num_steps: at most; a held-out fifth of the latents decides when to stop.
            inputs: to be encoded instead of those of training, `(N, *input_grid)`.
            seed: of the fit.
            progress: show a progress bar on a terminal.

        Raises:
            ValueError: if the latents were not kept and no inputs are given.
        """
        check_integer("seed", seed, 0)
        latents = self.latents
        if inputs is not None:
            encoding = self.encode(inputs)
            stream = generator(seed, Stream.PREDICTIVE)
            noise = torch.randn(encoding.mean.shape, generator=stream, dtype=torch.float64)
            latents = encoding.draw(noise)
        if latents is None:
            raise ValueError("`inputs` are needed: the latents of training were not kept.")
        prior, found = fit_latent_prior(
            latents,
            flow=flow,
            num_transforms=num_transforms,
            hidden=hidden,
            num_steps=num_steps,
            seed=seed,
            progress=progress,
        )
        return replace(
            self, prior=prior, latents=None, diagnostics={**self.diagnostics, **found}
        )

    @torch.no_grad()
    def sample_prior(self, n: int, *, seed: int = 0) -> dict[str, Tensor]:
        """Draws of the prior: `z` (n, d), `a` `(n, *input_grid)`, `u` (n, num_nodes[, c])."""
        stream = generator(check_integer("seed", seed, 0), Stream.PREDICTIVE)
        shape = (check_integer("n", n, 1), self.latent_dim)
        z = self.to_latent(torch.randn(shape, generator=stream, dtype=torch.float64))
        blocks = z.split(_BLOCK)
        inputs = torch.cat([self.decode_input(block) for block in blocks])
        solutions = torch.cat([self.decode_solution(block) for block in blocks])
        return {"z": z, "a": inputs, "u": solutions}

    def check_prior(
        self, data: Values, *, num_samples: int = 500, seed: int = 0
    ) -> dict[str, float]:
        """How inputs of the prior differ from data; see `compare_inputs`.

        Args:
            data: inputs that the model was not trained on, `(N, *input_grid)`.
            num_samples: draws of the prior.
            seed: of these.
        """
        rows, _ = self._inputs("data", data)
        drawn = self.sample_prior(num_samples, seed=seed)["a"]
        law = self.likelihood
        threshold = (law.low + law.high) / 2 if isinstance(law, TwoPhase) else None
        return compare_inputs(drawn, rows.unflatten(-1, self.input_grid), threshold)

    def galerkin(self, inputs: Values, num_modes: int = 100) -> GalerkinBasis:
        """The hybrid decoder: leading modes of the network's solutions, no PDE being solved.

        `basis.solve(pde.coefficients(a))` then projects the PDE onto them.

        Args:
            inputs: whose solutions span the modes, `(N, *input_grid)`, N >= num_modes.
            num_modes: r.

        Raises:
            TypeError: if the problem is not Darcy2D.
        """
        pde: Any = self.problem
        if not hasattr(pde, "stiffness_product"):
            raise TypeError(
                f"projection is written for Darcy2D; the problem is {type(pde).__name__}."
            )
        rows, _ = self._inputs("inputs", inputs)
        solutions = self._mean_solutions(rows).reshape(-1, *pde.solution_shape)
        return GalerkinBasis.pod(pde, solutions, num_modes)

    def score(self, x: Values, solutions: Values | None = None) -> float:
        """1 - mean relative L² error of the mean at the mesh's nodes.

        Args:
            x: inputs, `(B, *input_grid)`.
            solutions: at the nodes, (B, num_nodes) or `(B, *solution_shape)`; or solved.
        """
        rows, _ = self._inputs("x", x)
        predicted = self.predict(rows).mean.flatten(1)
        if solutions is None:
            solutions = self.problem.solve(self._coefficients(rows))
        truth = as_tensor("solutions", solutions).reshape(predicted.shape)
        return 1 - relative_l2(truth, predicted, case_axis=0)

    def pyro_model(self, inputs: Values) -> None:
        """The generative model of inputs `(B, *input_grid)` as a Pyro program; see `Bound`."""
        self._bound().pyro_model(self._inputs("inputs", inputs)[0], self.precision)

    def pyro_guide(self, inputs: Values) -> None:
        """The encoder as the guide of `pyro_model`."""
        self._bound().pyro_guide(self._inputs("inputs", inputs)[0], self.precision)

    def to_datatree(self) -> xarray.DataTree:
        """Draws of the prior (z, a, u), the validation inputs, and the bound of every step."""
        drawn = {n: v.numpy()[None] for n, v in self.sample_prior(_PRIOR_DRAWS).items()}
        axes = [f"input_axis_{i}" for i in range(len(self.input_grid))]
        components = ["component"] if self.problem.num_components > 1 else []
        groups: dict[str, Any] = {
            "prior": drawn,
            "constant_data": {
                "nodes": self.problem.nodes.numpy(),
                "validation": self.validation.numpy(),
                "error_sd": self._error_sd().numpy(),
            },
            "optimization": {"bound": self.curve.numpy()},
        }
        dims = {
            "z": ["latent"],
            "a": axes,
            "u": ["node", *components],
            "nodes": ["node", "coordinate"],
            "validation": ["case", *axes],
            "error_sd": ["node", *components],
            "bound": ["step"],
        }
        attrs = {"family": self.family, "method": self.method, "draws": "independent"}
        return build_datatree(groups, coords={}, dims=dims, attrs=attrs)

    def state(self) -> PosteriorState:
        """See `Posterior.state`."""
        return to_state(self)

    @classmethod
    def from_state(cls, state: PosteriorState) -> TrainedOperator:
        """See `Posterior.from_state`."""
        return cls(**fields_of_state(state))

    def _bound(self) -> Bound:
        physics = MeshPhysics(self.problem, torch.float64, torch.device("cpu"))
        count = physics.num_residuals
        return Bound(self.networks, self.problem, self.likelihood, physics, count)

    def _inputs(self, name: str, values: Values) -> tuple[Tensor, torch.Size]:
        rows, batch = check_inputs(name, values, self.input_grid, self.likelihood)
        check: Any = getattr(self.problem, "check_coefficients", None)
        if check is not None:
            check(name, self._coefficients(rows))
        return rows, batch

    def _latents(self, latents: Tensor) -> Tensor:
        check_shape("latents", latents.shape[1:], (self.latent_dim,), "one vector per row")
        return latents.to(torch.float64)

    def _points(self, points: Values | None) -> Tensor:
        if points is None:
            return self.problem.nodes
        return self.problem.check_points("points", as_tensor("points", points))

    def _coefficients(self, rows: Tensor) -> Tensor:
        return self.problem.coefficients(rows.unflatten(-1, self.input_grid))

    def _at(self, points: Tensor) -> tuple[SolutionAt, Tensor]:
        """The ansatz and the trunk's features at points, kept for the next call."""
        key = points.detach().numpy().tobytes()
        if key not in self._cache:
            with torch.no_grad():
                features = self.networks.solution_decoder.features(points)
            while len(self._cache) >= _CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = (SolutionAt(self.problem, points), features)
        return self._cache[key]

    def _solution(self, latents: Tensor, coefficients: Tensor, points: Tensor) -> Tensor:
        at_points, features = self._at(points)
        return at_points(self.networks.solution_decoder, latents, coefficients, features)

    @torch.no_grad()
    def _mean_solutions(self, rows: Tensor) -> Tensor:
        """û of the encoder's mean at the nodes, (B, num_nodes) or (B, num_nodes, c)."""
        nodes = self.problem.nodes
        return torch.cat([
            self._solution(self.networks.encode(block).mean, self._coefficients(block), nodes)
            for block in rows.split(_BLOCK)
        ])  # fmt: skip

    def _antithetic(self, encoding: Encoding) -> Tensor:
        """Draws in pairs about the mean, (K, B, d); the mean alone for a point mass."""
        if self.networks.encoder.law == "deterministic":
            return encoding.mean[None]
        shape = (_NUM_PAIRS, 1, self.latent_dim)
        noise = torch.randn(shape, generator=generator(0, Stream.NOISE), dtype=torch.float64)
        return encoding.draw(torch.cat([noise, -noise]))

    def _joint_law(self, loc: Tensor, points: Tensor, *, observation: bool) -> Distribution:
        self._check_scalar("a joint law")
        modes, rest = self.error.at(self.problem, points)
        tiny = 1e-12 * loc.square().mean()
        if not observation:
            modes, rest = torch.zeros_like(modes[:1]), torch.zeros_like(rest)
        return LowRankMultivariateNormal(loc, modes.T, rest + tiny, validate_args=False)

    def _check_scalar(self, wish: str) -> None:
        if self.problem.num_components > 1:
            raise ValueError(
                f"{type(self.problem).__name__} has {self.problem.num_components} components; "
                f"{wish} is there for scalar solutions only."
            )

    def _error_sd(self) -> Tensor:
        return (self.error.modes.square().sum(0) + self.error.rest).sqrt()
