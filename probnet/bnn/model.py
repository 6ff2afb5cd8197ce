"""A network, its prior and a likelihood: the model, and inference on it."""

from __future__ import annotations

from typing import Any, cast

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

import inference
from inference._checks import check_integer
from probnet._checks import Values, check_table
from probnet.bnn.joint import Joint
from probnet.bnn.measurement import check_varies
from probnet.bnn.networks import BayesianNetwork
from probnet.bnn.posterior import BNNPosterior, make_posterior
from probnet.bnn.priors import WeightPrior
from probnet.likelihoods import Gaussian, HeteroscedasticGaussian, Likelihood, StudentT
from probnet.standardizer import Standardizer

_REAL_VALUED = (Gaussian, HeteroscedasticGaussian, StudentT)
_FULL_DATA = ("hmc", "nuts")
_BATCH_SIZE = 32
_DEFAULTS = {"num_warmup": 2000, "num_samples": 30, "thin": 500}
_NUTS_DEFAULTS = {"num_warmup": 300, "num_samples": 300}


class BNN:
    """A Bayesian neural network.

    Inputs are standardised column by column with the training statistics, real targets too;
    predictions are in the user's units.

    By default the latents of the prior are sampled (non-centred), which keeps all curvatures
    comparable whatever the matched scales. `centered=True` samples the weights themselves. For
    the hierarchical family the variances are then integrated out, and drawn from their exact
    Gibbs conditional for every kept draw.

    Args:
        prior: from `match_prior` or `network.prior()`; a network stands for its default prior.
        likelihood: of the targets given the network's outputs, from `probnet.likelihoods`, its
            noise in units of the standardised target; by default Gaussian.
        noise_var: of that Gaussian, a number, or a prior such as `InverseGamma(2.0, 0.1)`; in
            units of the standardised target. If neither is given the noise is learned, with a
            half-normal prior on its standard deviation.
        centered: sample weights instead of latents.
        standardize: whether inputs and real targets are standardised.

    Raises:
        ValueError: if both `likelihood` and `noise_var` are given, or the network's outputs do
            not fit the likelihood.
        TypeError: if `prior` or `likelihood` is something else.

    Example:
        >>> from probnet.bnn import BayesianMLP
        >>> x = torch.linspace(-1, 1, 20)[:, None]
        >>> model = BNN(BayesianMLP(input_dim=1, hidden=[10]), noise_var=0.1)
        >>> posterior = model.fit(x, x[:, 0] ** 2, num_chains=2, num_samples=3, thin=5,
        ...                       num_warmup=20, seed=0, progress=False)
        >>> posterior.predict(x).mean.shape
        torch.Size([20])
    """

    def __init__(
        self,
        prior: WeightPrior | BayesianNetwork,
        likelihood: Likelihood | None = None,
        *,
        noise_var: float | Distribution | None = None,
        centered: bool = False,
        standardize: bool = True,
    ) -> None:
        if isinstance(prior, BayesianNetwork):
            prior = prior.prior()
        if not isinstance(prior, WeightPrior):
            raise TypeError(
                f"`prior` must be a prior of weights, such as `match_prior(...).prior`, or a "
                f"network; got {type(prior).__name__}."
            )
        if likelihood is not None and noise_var is not None:
            raise ValueError("Give `likelihood` or `noise_var`, not both.")
        likelihood = likelihood or Gaussian(noise_var=noise_var)
        if not isinstance(likelihood, Likelihood):
            raise TypeError(
                f"`likelihood` must be of probnet.likelihoods; got {type(likelihood).__name__}."
            )
        if prior.network.output_dim != likelihood.num_outputs:
            raise ValueError(
                f"the network must have {likelihood.num_outputs} outputs for a "
                f"{type(likelihood).__name__} likelihood; it has {prior.network.output_dim}. "
                f"Set `output_dim={likelihood.num_outputs}`."
            )
        if centered:
            prior.log_prob(prior.sample(1))  # tells families without a density
        self.prior, self.likelihood = prior, likelihood
        self.centered, self.standardize = centered, standardize

    def fit(
        self,
        x: Values,
        y: Values,
        *,
        method: str = "sghmc_adaptive",
        num_chains: int = 4,
        num_warmup: int | None = None,
        num_samples: int | None = None,
        thin: int | None = None,
        batch_size: int | str | None = "auto",
        seed: int = 0,
        progress: bool = True,
        **options: Any,
    ) -> BNNPosterior:
        """Sample the posterior.

        Args:
            x: inputs `(n, d)`, n >= 2.
            y: targets `(n,)`: real numbers, class numbers or counts, as the likelihood takes
                them.
            method: a method of `inference.sample`, or `"svi"` for `inference.fit`.
            num_chains: chains, advanced as one batched computation; each starts at its own draw
                from the prior.
            num_warmup: steps before the first draw; 2000, or 300 for HMC and NUTS.
            num_samples: draws per chain; 30, or 300 for HMC and NUTS.
            thin: steps per draw; 500, or 1 for HMC and NUTS.
            batch_size: rows per gradient; `"auto"`: 32 for stochastic-gradient methods, else
                all; `None`: all rows.
            seed: of everything random.
            progress: show a progress bar on a terminal.
            **options: of the method, such as `step_size`, `momentum_decay`, `temperature` or
                `reference`; for `"svi"` those of `inference.fit`.

        Returns:
            The posterior; its `diagnostics` hold R-hat and effective sample size of predicted
            function values.

        Raises:
            ValueError: on shapes that do not fit, NaN or infinity, constant columns, fewer than
                two rows, or targets that the likelihood cannot produce.
        """
        inputs, targets = self._checked(x, y)
        x_map, y_map = self._standardizers(inputs, targets)
        data = (x_map.transform(inputs), y_map.transform(targets) if y_map else targets)
        dtype = torch.float64 if method in (*_FULL_DATA, "svi") else torch.float32
        joint = Joint(self.prior, self.likelihood, centered=self.centered)
        target = joint.log_density(len(inputs), dtype)
        if method == "svi":
            given = {"num_samples": num_samples} if num_samples is not None else {}
            draws = inference.fit(
                target, data, dtype=dtype, seed=seed, progress=progress,
                init=joint.start(None, seed),
                batch_size=None if batch_size == "auto" else cast(Any, batch_size),
                **given, **options,
            )  # fmt: skip
        else:
            lengths = {"num_warmup": num_warmup, "num_samples": num_samples, "thin": thin}
            defaults = _NUTS_DEFAULTS if method in _FULL_DATA else _DEFAULTS
            lengths = defaults | {n: v for n, v in lengths.items() if v is not None}
            if batch_size == "auto":
                batch_size = None if method in _FULL_DATA else min(_BATCH_SIZE, len(inputs))
            check_integer("num_chains", num_chains, 1)
            draws = inference.sample(
                target, data, method=method, num_chains=num_chains, seed=seed, dtype=dtype,
                batch_size=cast(Any, batch_size), init=joint.start(num_chains, seed),
                progress=progress, **lengths, **options,
            )  # fmt: skip
        return make_posterior(
            joint.named(draws, seed),
            self.prior,
            self.likelihood,
            x=inputs,
            y=targets,
            x_standardizer=x_map,
            y_standardizer=y_map,
        )

    def pyro_model(self, x: Tensor, y: Tensor | None = None) -> None:
        """The same model for Pyro, on standardised data; `inference.sample` takes it as well.

        Args:
            x: inputs `(n, d)`, standardised.
            y: targets `(n,)`, standardised if real; `None` to draw them.
        """
        parameters = self.likelihood.sample_parameters()
        joint = Joint(self.prior, self.likelihood)
        f = joint.outputs(x, self.prior.sample_weights())
        with pyro.plate("data", len(x)):
            self.likelihood.observe("y", f, y, **parameters)

    def _checked(self, x: Values, y: Values) -> tuple[Tensor, Tensor]:
        inputs, targets = check_table(x, y)
        width = self.prior.network.input_dim
        if inputs.shape[1] != width:
            raise ValueError(
                f"`x` must have {width} columns, as many as the network has inputs; got "
                f"{inputs.shape[1]}."
            )
        if targets.ndim != 1:
            raise ValueError(f"`y` must have shape (n,); got {tuple(targets.shape)}.")
        if len(inputs) < 2:
            raise ValueError(f"`x` must have at least 2 rows; got {len(inputs)}.")
        if self.standardize:
            check_varies(inputs)
        return inputs, self.likelihood.check_targets(targets)

    def _standardizers(self, x: Tensor, y: Tensor) -> tuple[Standardizer, Standardizer | None]:
        if not self.standardize:
            zero, one = torch.zeros(x.shape[1]).double(), torch.ones(x.shape[1]).double()
            return Standardizer(zero, one), None
        real = isinstance(self.likelihood, _REAL_VALUED)
        return Standardizer.fit(x), Standardizer.fit(y) if real else None
