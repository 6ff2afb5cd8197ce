"""Bayesian neural networks with matched priors as scikit-learn estimators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyro.distributions as dist
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from probnet.bnn import (
    BNN,
    BayesianMLP,
    BNNPosterior,
    HierarchicalGPTarget,
    MeasurementSet,
    WeightPrior,
    match_prior,
)
from probnet.estimators._tables import Array, class_numbers, seed_of
from probnet.likelihoods import Categorical

_LOGIT_VARIANCE = (math.log(8.0), 0.3**0.5)  # Tran et al. (JMLR 2022), banana data


class _Base(BaseEstimator):
    """What regression and classification share."""

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (100,),
        activation: str = "tanh",
        family: str = "gaussian",
        match: bool = True,
        measurement_size: int = 100,
        num_chains: int = 4,
        num_warmup: int = 2000,
        num_samples: int = 30,
        thin: int = 100,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.family = family
        self.match = match
        self.measurement_size = measurement_size
        self.num_chains = num_chains
        self.num_warmup = num_warmup
        self.num_samples = num_samples
        self.thin = thin
        self.random_state = random_state

    def _prior(self, x: Array, num_outputs: int, variance: Any) -> WeightPrior:
        network = BayesianMLP(
            x.shape[1], self.hidden, self.activation, self.family, output_dim=num_outputs
        )
        if not self.match:
            return network.prior()
        target = HierarchicalGPTarget(x.shape[1], variance=variance)
        points = MeasurementSet(x, self.measurement_size, standardize=True)
        seed = seed_of(self.random_state)
        return match_prior(network, target, points, seed=seed, progress=False).prior

    def _sample(self, model: BNN, x: Array, y: Array) -> BNNPosterior:
        return model.fit(
            x, y, num_chains=self.num_chains, num_warmup=self.num_warmup,
            num_samples=self.num_samples, thin=self.thin, seed=seed_of(self.random_state),
            progress=False,
        )  # fmt: skip

    def _new_table(self, X: Any) -> Array:
        check_is_fitted(self)
        checked: Any = validate_data(self, X, dtype=np.float64, reset=False)
        return checked


class BNNRegressor(RegressorMixin, _Base):
    """Regression by a Bayesian network, its prior matched to a Gaussian process, noise learned.

    Args:
        hidden: widths of the hidden layers.
        activation: a name of `probnet.networks.ACTIVATIONS`.
        family: of priors, see `probnet.bnn.BayesianNetwork`.
        match: whether the prior is matched to `probnet.bnn.HierarchicalGPTarget`, or standard.
        measurement_size: points where functions are compared.
        num_chains: see `probnet.bnn.BNN.fit`, like those that follow.
        num_warmup: steps before the first draw.
        num_samples: draws per chain.
        thin: steps per draw.
        random_state: seed.

    Attributes:
        posterior_: the fitted posterior, in the user's units.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to a table `(n, d)` without constant columns, and targets `(n,)`."""
        checked: Any = validate_data(
            self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2
        )
        table, targets = checked
        prior = self._prior(table, 1, None)
        self.posterior_ = self._sample(BNN(prior), table, np.asarray(targets, dtype=float))
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Mean `(n,)`, and if asked the standard deviation of an observation, of each row."""
        table = self._new_table(X)
        law = self.posterior_.predict(table)
        mean = law.mean.numpy()
        return (mean, law.stddev.numpy()) if return_std else mean

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> Array:
        """Draws of observations, `(n, n_samples)`."""
        table = self._new_table(X)
        draws = self.posterior_.sample(n_samples, table, seed=seed_of(random_state))
        return draws.numpy().T


class BNNClassifier(ClassifierMixin, _Base):
    """Classification by a Bayesian network whose logits behave like Gaussian processes.

    Args:
        hidden: widths of the hidden layers.
        activation: a name of `probnet.networks.ACTIVATIONS`.
        family: of priors, see `probnet.bnn.BayesianNetwork`.
        match: whether the prior is matched to `probnet.bnn.HierarchicalGPTarget`, or standard.
        measurement_size: points where functions are compared.
        num_chains: see `probnet.bnn.BNN.fit`, like those that follow.
        num_warmup: steps before the first draw.
        num_samples: draws per chain.
        thin: steps per draw.
        random_state: seed.

    Attributes:
        classes_: labels, in the order of the columns of `predict_proba`.
        posterior_: the fitted posterior.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to a table `(n, d)` without constant columns, and labels `(n,)` of any type."""
        checked: Any = validate_data(self, X, y, dtype=np.float64)
        table, targets = checked
        self.classes_, labels = class_numbers("BNNClassifier", targets)
        count = len(self.classes_)
        prior = self._prior(table, count, dist.LogNormal(*_LOGIT_VARIANCE))
        self.posterior_ = self._sample(BNN(prior, Categorical(count)), table, labels)
        return self

    def predict_proba(self, X: Any) -> Array:
        """Class probabilities `(n, classes)`."""
        table = self._new_table(X)
        law: Any = self.posterior_.predict(table)
        return law.probs.numpy()

    def predict(self, X: Any) -> Array:
        """The most probable label of each row."""
        best = self.predict_proba(X).argmax(-1)
        return self.classes_[best]
