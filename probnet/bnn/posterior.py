"""Posterior draws of a network, and predictions from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from inference import Draws, diagnostics
from inference.errors import warn
from inference.export import build_datatree
from inference.rng import Stream, scoped_seed, stream_seed
from probnet._archive import PosteriorState
from probnet._checks import Values, check_matrix
from probnet.bnn.joint import Joint
from probnet.bnn.networks import network_from_dict
from probnet.bnn.priors import WeightPrior
from probnet.bnn.registry import prior_from_dict, prior_to_dict
from probnet.likelihoods import Bernoulli, Categorical, Likelihood, likelihood_from_dict
from probnet.posterior import Posterior
from probnet.predictive import DrawsMixture, StudentT
from probnet.standardizer import Standardizer

if TYPE_CHECKING:
    import xarray

_BLOCK_VALUES = 1 << 22  # hidden activations in memory at once
_DIAGNOSTIC_POINTS, _PRIOR_DRAWS = 100, 200
_RHAT_LIMIT = 1.05
_LATENT_SD = 1e-6  # of the law that stands for a function value that is known, in y's sd
_MEAN_ONLY = (Bernoulli, Categorical)


@dataclass(frozen=True, eq=False, repr=False)
class BNNPosterior(Posterior, family="bnn"):
    """Draws of a network's weights given data.

    Attributes:
        draws: weights `w<l>`, `b<l>`, `variances` of the hierarchical family and learned
            likelihood parameters, in standardised units.
        prior: of the weights.
        likelihood: of standardised targets.
        x: training inputs `(n, d)`, in the user's units.
        y: training targets `(n,)`.
        x_standardizer: of the inputs.
        y_standardizer: of the targets; `None` for classes and counts.
        method: how inference was done.
        diagnostics: R-hat and effective sample size of function values at (at most 100)
            training inputs: means, maxima, and the share of points with R-hat <= 1.1.
    """

    draws: Draws
    prior: WeightPrior
    likelihood: Likelihood
    x: Tensor
    y: Tensor
    x_standardizer: Standardizer
    y_standardizer: Standardizer | None
    method: str
    diagnostics: Mapping[str, Any]

    def functions(self, x: Values) -> Tensor:
        """Function values of every draw, in standardised units, `(chain, draw, n)`.

        With several outputs there is one more axis. Computed a few draws at a time.

        Args:
            x: inputs `(n, d)` in the user's units.
        """
        inputs = check_matrix("x", x, self.prior.network.input_dim)
        shapes = self.prior.network.shapes
        dtype = torch.from_numpy(np.empty(0, self.draws.draws["w1"].dtype)).dtype
        z = self.x_standardizer.transform(inputs).to(dtype)
        width = max(max(shape) for shape in shapes.values())
        joint = Joint(self.prior, self.likelihood)

        def outputs(params: dict[str, Tensor]) -> Tensor:
            return joint.outputs(z, {name: params[name] for name in shapes})

        block = max(1, _BLOCK_VALUES // (len(z) * width))
        return torch.from_numpy(self.draws.predict(outputs, batch_size=block)).double()

    def predict(
        self, x: Values, *, observation: bool = True, joint: bool = False
    ) -> Distribution:
        """The predictive law at new inputs, a mixture over draws, in the user's units.

        Its `log_prob` is that of the mixture; `mean` and `variance` are its moments. Bernoulli
        and categorical likelihoods give that law with the mean probabilities.

        Args:
            x: inputs `(n, d)`.
            observation: the law of a new y; `False`: of the function, log odds and log rates
                included.
            joint: one density for all points together; within a draw they are independent.
        """
        f = self.functions(x)
        if not observation:
            law: Any = Normal(f, _LATENT_SD, validate_args=False)
        elif isinstance(self.likelihood, _MEAN_ONLY) and not joint:
            return self.likelihood.predictive(f, num_draw_axes=2)
        else:
            law = self.likelihood.distribution(f, **self._parameters())
        law = self._in_user_units(law)
        return DrawsMixture(Independent(law, 1) if joint else law, num_draw_axes=2)

    def sample_prior(self, n: int, x: Values, *, seed: int = 0) -> Tensor:
        """Functions of the prior `(n, len(x))` at inputs in the user's units.

        Args:
            n: number of functions.
            x: inputs.
            seed: equal seeds give equal functions.
        """
        inputs = check_matrix("x", x, self.prior.network.input_dim)
        f = self.prior.functions(self.x_standardizer.transform(inputs), n, seed=seed)
        return f if self.y_standardizer is None else self.y_standardizer.inverse(f)

    def function_diagnostics(self, x: Values) -> dict[str, np.ndarray]:
        """Rank-normalised split R-hat and bulk ESS of every function value at x."""
        f = self.functions(x).numpy()
        return {"rhat": diagnostics.rhat(f), "ess": diagnostics.ess(f)}

    def to_datatree(self) -> xarray.DataTree:
        """The posterior in the ArviZ schema, with every group of a Bayesian workflow.

        `posterior` (weights, variances, likelihood parameters, and `f` at the training inputs,
        in standardised units), `sample_stats`, `posterior_predictive` and `log_likelihood` of
        y, `prior` (f) and `prior_predictive` (y), `observed_data`, `constant_data`.
        """
        f = self.functions(self.x)
        draws = {name: np.asarray(values) for name, values in self.draws.draws.items()}
        stats = {"sample_stats": self.draws.sample_stats} if self.draws.sample_stats else {}
        with scoped_seed(stream_seed(0, Stream.PREDICTIVE)):
            law: Any = self._in_user_units(
                self.likelihood.distribution(f, **self._parameters())
            )
            prior_f = self._prior_outputs()
            prior_law: Any = self._in_user_units(
                self.likelihood.distribution(prior_f, **self._prior_parameters())
            )
            groups: dict[str, Any] = {
                "posterior": {**draws, "f": f.numpy()},
                **stats,
                "posterior_predictive": {"y": law.sample().numpy()},
                "log_likelihood": {"y": law.log_prob(self.y).numpy()},
                "prior": {"f": prior_f.numpy()[None]},
                "prior_predictive": {"y": prior_law.sample().numpy()[None]},
                "observed_data": {"y": self.y.numpy()},
                "constant_data": {"x": self.x.numpy(), **self._constants()},
            }
        if self.draws.optimization:
            groups["optimization"] = self.draws.optimization
        outputs = ["output"] if f.ndim == 4 else []
        dims = {**self.draws.dims, "f": ["row", *outputs], "y": ["row"], "x": ["row", "input"]}
        dims |= {"x_mean": ["input"], "x_scale": ["input"]}
        attrs = {**self.draws.attrs, "family": self.family, "prior_draws": "independent"}
        return build_datatree(groups, coords=self.draws.coords, dims=dims, attrs=attrs)

    def state(self) -> PosteriorState:
        """See `Posterior.state`."""
        y_map = self.y_standardizer
        config = {
            "prior": prior_to_dict(self.prior),
            "likelihood": self.likelihood.to_dict(),
            "x_standardizer": self.x_standardizer.to_dict(),
            "y_standardizer": None if y_map is None else y_map.to_dict(),
        }
        tensors = {"x": self.x, "y": self.y}
        tensors |= {f"prior.{n}": v for n, v in self.prior.hyperparameters.items()}
        return PosteriorState(self.method, self.diagnostics, config, tensors, self.draws)

    @classmethod
    def from_state(cls, state: PosteriorState) -> BNNPosterior:
        """See `Posterior.from_state`."""
        config, tensors = state.config, state.tensors
        hyperparameters = {
            name.removeprefix("prior."): value
            for name, value in tensors.items()
            if name.startswith("prior.")
        }
        network = network_from_dict(config["prior"]["network"])
        y_map = config["y_standardizer"]
        if state.draws is None:
            raise ValueError("a posterior of the family 'bnn' must have draws; this has none.")
        return cls(
            draws=state.draws,
            prior=prior_from_dict(network, config["prior"]["options"], hyperparameters),
            likelihood=likelihood_from_dict(config["likelihood"]),
            x=tensors["x"],
            y=tensors["y"],
            x_standardizer=Standardizer.from_dict(config["x_standardizer"]),
            y_standardizer=None if y_map is None else Standardizer.from_dict(y_map),
            method=state.method,
            diagnostics=state.diagnostics,
        )

    def _parameters(self) -> dict[str, Tensor]:
        """Learned likelihood parameters `(chain, draw)`."""
        return {
            name: torch.from_numpy(np.array(self.draws.draws[name])).double()
            for name in self.likelihood.priors
        }

    def _prior_outputs(self) -> Tensor:
        return self.prior.functions(self.x_standardizer.transform(self.x), _PRIOR_DRAWS)

    def _prior_parameters(self) -> dict[str, Tensor]:
        return {n: law.sample((_PRIOR_DRAWS,)) for n, law in self.likelihood.priors.items()}

    def _constants(self) -> dict[str, np.ndarray]:
        found = {"x_mean": self.x_standardizer.mean, "x_scale": self.x_standardizer.scale}
        if self.y_standardizer is not None:
            found |= {"y_mean": self.y_standardizer.mean, "y_scale": self.y_standardizer.scale}
        for name, value in self.prior.hyperparameters.items():
            found[f"prior_{name}"] = value
        return {name: value.numpy() for name, value in found.items()}

    def _in_user_units(self, law: Any) -> Any:
        """A location-scale law of standardised values as that of the values themselves."""
        if self.y_standardizer is None:
            return law
        loc = self.y_standardizer.inverse(law.loc)
        if isinstance(law, StudentT):
            scale = self.y_standardizer.inverse_sd(law.scale)
            return StudentT(law.df, loc, scale, validate_args=False)
        return dist.Normal(loc, self.y_standardizer.inverse_sd(law.scale), validate_args=False)


def make_posterior(
    draws: Draws, prior: WeightPrior, likelihood: Likelihood, **data: Any
) -> BNNPosterior:
    """A posterior with its diagnostics, which warn of chains that disagree."""
    blank = BNNPosterior(
        draws=draws,
        prior=prior,
        likelihood=likelihood,
        method=str(draws.attrs["method"]),
        diagnostics={},
        **data,
    )
    return replace(blank, diagnostics=_diagnose(blank))


def _diagnose(posterior: BNNPosterior) -> dict[str, Any]:
    draws = posterior.draws
    if draws.variational:
        return {"elbo": draws.attrs["elbo"], "pareto_k": draws.attrs["pareto_k"]}
    if draws.num_samples < 4:
        return {}
    step = -(-len(posterior.x) // _DIAGNOSTIC_POINTS)
    found = posterior.function_diagnostics(posterior.x[::step])
    rhat, ess = found["rhat"], found["ess"]
    summary = {
        "rhat_mean": float(np.mean(rhat)),
        "rhat_max": float(np.max(rhat)),
        "rhat_share_below_1.1": float(np.mean(rhat <= 1.1)),
        "ess_mean": float(np.mean(ess)),
        "ess_min": float(np.min(ess)),
    }
    if not summary["rhat_mean"] <= _RHAT_LIMIT:
        warn(
            f"the chains' predictions disagree: mean R-hat {summary['rhat_mean']:.2f} > "
            f"{_RHAT_LIMIT}. Use longer strides (`thin`), a longer warm-up, or smaller steps."
        )
    return summary
