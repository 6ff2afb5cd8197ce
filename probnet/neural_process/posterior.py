"""A neural process given a context: predictions, functions, exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from inference._checks import check_integer
from inference.export import to_arviz
from inference.rng import Stream, generator
from probnet._archive import PosteriorState
from probnet._checks import Values
from probnet.neural_process.export import posterior_tree
from probnet.neural_process.heads import transformed
from probnet.neural_process.inputs import Context, check_context, check_points
from probnet.neural_process.laws import ProcessPredictive
from probnet.neural_process.neural_rule import NeuralRule
from probnet.posterior import Posterior
from probnet.predictive import DrawsMixture

if TYPE_CHECKING:
    import xarray

    from probnet.neural_process.trained import TrainedProcess

_LATENT_SD = 1e-6  # of the law that stands for a function value that is known
_FUNCTIONS_AT_ONCE = 64


@dataclass(frozen=True, eq=False, repr=False)
class NeuralProcessPosterior(Posterior, family="neural_process"):
    """Predictions given a context.

    The k-th function of a seed is the same function wherever it is evaluated and however many
    are drawn.

    Attributes:
        trained: the trained process.
        context: what it is conditioned on.
        num_pseudo: number of pseudo contexts; `None`: as in training.
        method: optimiser of the training.
        diagnostics: empty; those of the training are in `trained.diagnostics`.
    """

    trained: TrainedProcess
    context: Context
    num_pseudo: int | None
    method: str
    diagnostics: Mapping[str, Any]

    def predict(
        self,
        x: Values,
        *,
        observation: bool = True,
        joint: bool = False,
        num_functions: int = 50,
        seed: int = 0,
    ) -> Distribution:
        """The predictive law, batch shape `(m,)` or `(B, m)` for B tasks, event `(y_dim,)`.

        Of models that draw functions it is the mixture p(y | x) = (1/K) Σ_k p_k(y | x) at every
        point by itself; `log_prob(y, joint=True)` is that of all points of a task together.
        With `joint=True` the law itself is the joint one, (1/K) Σ_k Π_i p_k(y_i | x_i), with
        event `(m, y_dim)`.

        Args:
            x: points `(m, x_dim)`, or `(B, m, x_dim)` for a context of B tasks.
            observation: the law of a new y; `False`: of the function.
            joint: one density for all points together.
            num_functions: K, for models that draw functions.
            seed: of the functions.

        Raises:
            ValueError: on bad points, and on `joint=True` or `observation=False` for a model
                without functions.
        """
        if not self.trained.network.sampled:
            return self._conditional_law(x, observation=observation, joint=joint)
        laws: Any = self.function_laws(x, num_functions=num_functions, seed=seed)
        if not observation:
            laws = Normal(laws.mean, _LATENT_SD, validate_args=False)
        return DrawsMixture(Independent(laws, 2)) if joint else ProcessPredictive(laws)

    def base(self, x: Values) -> ProcessPredictive:
        """The prediction p_0(y | x) without functions, at each point by itself.

        Raises:
            ValueError: if the model predicts by functions only.
        """
        network = self.trained.network
        if not network.conditional:
            raise ValueError(f"{type(network).__name__} predicts by functions only.")
        law = self.trained.calibration.base_law(self._network_base(self._points(x)))
        return ProcessPredictive(law, self._no_functions())

    def function_laws(
        self, x: Values, *, num_functions: int = 50, seed: int = 0
    ) -> Distribution:
        """The law p_k of y under each function, batch shape `(K, m, y_dim)`.

        For B tasks it is `(K, B, m, y_dim)`. Arguments as for `predict`.

        Raises:
            ValueError: if the model has no law of functions.
        """
        network = self.trained.network
        check_integer("num_functions", num_functions, 1)
        if not network.sampled:
            raise ValueError(self._no_functions())
        points = self._points(x).float()
        stream = generator(check_integer("seed", seed, 0), Stream.PREDICTIVE)
        noise = network.draw_noise(
            1, num_functions, self.context.x.shape[1], stream, self.num_pseudo
        )
        if noise is None:
            raise ValueError(self._no_functions())
        noise = noise.to(points.device)
        with torch.no_grad():
            parts = [
                network.decode(network.sample(self._encoding, some), points)
                for some in noise.split(_FUNCTIONS_AT_ONCE, dim=1)
            ]
        law = self._law(torch.cat(parts, dim=1).transpose(0, 1))
        return self.trained.calibration.function_law(law, lambda: self._network_base(points))

    def sample_functions(self, x: Values, n: int, *, seed: int = 0) -> Tensor:
        """Functions of the posterior `(n, m, y_dim)`, or `(n, B, m, y_dim)` for B tasks.

        They are the means of y under each function, free of observation noise.

        Args:
            x: points `(m, x_dim)`.
            n: number of functions.
            seed: equal seeds give equal functions.

        Raises:
            ValueError: if the model has no law of functions.
        """
        check_integer("n", n, 1)
        return self.function_laws(x, num_functions=n, seed=seed).mean

    def as_rule(self) -> NeuralRule:
        """The one-step predictive rule of the trained process, for `PredictiveResampler`."""
        return self.trained.as_rule()

    def condition(self, x: Values, y: Values) -> NeuralProcessPosterior:
        """The posterior given further observations as well, `(n', *)` or `(B, n', *)`."""
        network, old = self.trained.network, self.context
        new = check_context(network, x, y, None, allow_empty=False, device=old.x.device)
        if new.batched != old.batched or len(new.x) != len(old.x):
            raise ValueError(
                f"`x` must be of the {len(old.x)} task(s) of the context, in the same form; "
                f"got shape {tuple(np.shape(x))}."
            )
        joined = [
            torch.cat([getattr(old, n), getattr(new, n)], dim=1) for n in ("x", "y", "mask")
        ]
        xc, yc, mask = joined if old.batched else (t[0] for t in joined)
        return self.trained.condition(
            xc, yc, mask=mask, num_pseudo=self.num_pseudo, allow_empty=True
        )

    def to_datatree(
        self, x: Values | None = None, *, num_functions: int = 200, seed: int = 0
    ) -> xarray.DataTree:
        """Functions and predictions in the ArviZ schema: one chain of independent draws.

        `posterior` (f), `posterior_predictive` (y), `log_likelihood` (y_ctx, pointwise),
        `sample_stats` (number of the function), `observed_data` (y_ctx), `constant_data`
        (x_ctx, x_grid). Models without functions have draws of y at each point by itself only.

        Args:
            x: points of f and y; those of the context if omitted.
            num_functions: number of draws.
            seed: of all draws.
        """
        return posterior_tree(self, x, num_functions=num_functions, seed=seed)

    def to_arviz(
        self, x: Values | None = None, *, num_functions: int = 200, seed: int = 0
    ) -> Any:
        """What the installed ArviZ works on; arguments as for `to_datatree`."""
        return to_arviz(self.to_datatree(x, num_functions=num_functions, seed=seed))

    def state(self) -> PosteriorState:
        """See `Posterior.state`; the trained process is part of it."""
        inner = self.trained.state()
        config = {
            "trained": {**inner.config, "diagnostics": dict(inner.diagnostics)},
            "num_pseudo": self.num_pseudo,
            "batched": self.context.batched,
        }
        tensors = {f"trained.{n}": t for n, t in inner.tensors.items()}
        tensors |= {f"context.{n}": getattr(self.context, n) for n in ("x", "y", "mask")}
        return PosteriorState(self.method, self.diagnostics, config, tensors)

    @classmethod
    def from_state(cls, state: PosteriorState) -> NeuralProcessPosterior:
        """See `Posterior.from_state`."""
        from probnet.neural_process.trained import TrainedProcess

        config, start = dict(state.config["trained"]), "trained."
        tensors = {
            n.removeprefix(start): t for n, t in state.tensors.items() if n.startswith(start)
        }
        diagnostics = config.pop("diagnostics")
        inner = PosteriorState(state.method, diagnostics, config, tensors)
        x, y, mask = (state.tensors[f"context.{n}"] for n in ("x", "y", "mask"))
        return cls(
            trained=TrainedProcess.from_state(inner),
            context=Context(x, y, mask, state.config["batched"]),
            num_pseudo=state.config["num_pseudo"],
            method=state.method,
            diagnostics=state.diagnostics,
        )

    @cached_property
    def _encoding(self) -> Any:
        context = self.context
        with torch.no_grad():
            return self.trained.network.encode(
                context.x.float(), context.y.float(), context.mask
            )

    def _network_base(self, points: Tensor) -> Any:
        """p_0 as the network has it, with an axis of one function."""
        with torch.no_grad():
            outputs = self.trained.network.decode(self._encoding, points.float())
        return self._law(outputs.transpose(0, 1))

    def _points(self, x: Values) -> Tensor:
        return check_points(self.trained.network, x, self.context)

    def _law(self, outputs: Tensor) -> Any:
        """The laws of a head's numbers `(K, B, m, *)` in float64; without B for one task."""
        if not self.context.batched:
            outputs = outputs[:, 0]
        return transformed(self.trained.network.head.law(outputs), Tensor.double)

    def _conditional_law(self, x: Values, *, observation: bool, joint: bool) -> Distribution:
        if joint:
            raise ValueError(self._no_functions())
        if not observation:
            raise ValueError(
                f"`observation=False`: {type(self.trained.network).__name__} does not tell "
                f"noise from what it does not know of the function. Use a model that draws "
                f"functions, such as MPNP."
            )
        return self.base(x)

    def _no_functions(self) -> str:
        return (
            f"{type(self.trained.network).__name__} has no law of functions, hence no joint "
            f"law of several points. Factor it point after point, autoregressively, by "
            f"`Autoregressive(posterior)`, or use a model that draws functions, such as MPNP."
        )
