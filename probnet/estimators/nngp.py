"""Infinitely wide networks as scikit-learn estimators."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from probnet.estimators._tables import Array, class_numbers, seed_of
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import InverseGamma, ScaleMixtureClassifier, ScaleMixtureGP
from probnet.standardizer import Standardizer


class NNGPRegressor(RegressorMixin, BaseEstimator):
    """Regression by the scale mixture of an infinitely wide dense network.

    Args:
        depth: hidden layers.
        activation: a name, see `probnet.kernels`.
        ard: one scale per feature, learned.
        alpha: shape of the inverse-gamma prior of the scale.
        beta: its rate.
        method: `"evidence"` or `"laplace"`, see `ScaleMixtureGP.fit`.
        max_evaluations: of the search for hyper-parameters.
        random_state: seed.

    Attributes:
        posterior_: the fitted posterior, in the user's units.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> x, y = load_diabetes(return_X_y=True)
        >>> regressor = NNGPRegressor(depth=1, ard=False).fit(x[:80], y[:80])
        >>> mean, sd = regressor.predict(x[80:], return_std=True)
    """

    def __init__(
        self,
        *,
        depth: int = 2,
        activation: str = "relu",
        ard: bool = True,
        alpha: float = 2.0,
        beta: float = 2.0,
        method: str = "evidence",
        max_evaluations: int = 200,
        random_state: Any = None,
    ) -> None:
        self.depth = depth
        self.activation = activation
        self.ard = ard
        self.alpha = alpha
        self.beta = beta
        self.method = method
        self.max_evaluations = max_evaluations
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to a table `(n, d)` and targets `(n,)` or `(n, outputs)`."""
        checked: Any = validate_data(
            self,
            X,
            y,
            dtype=np.float64,
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
        )
        table, targets = checked
        kernel = NNGPKernel(
            mlp(self.depth, self.activation), ard_num_dims=table.shape[1] if self.ard else None
        )
        prior = InverseGamma(self.alpha, self.beta)
        model: Any = ScaleMixtureGP(kernel, scale_prior=prior, standardize=True)
        self.posterior_: Any = model.fit(
            table, np.asarray(targets, dtype=np.float64), method=self.method,
            seed=seed_of(self.random_state), progress=False,
            max_evaluations=self.max_evaluations,
        )  # fmt: skip
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Mean, and if asked the standard deviation of an observation, of each row."""
        law = self._law(X)
        mean = np.transpose(law.mean.numpy())
        return (mean, np.transpose(law.stddev.numpy())) if return_std else mean

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> Array:
        """Draws of observations, `(n, n_samples)` or `(n, outputs, n_samples)`."""
        check_is_fitted(self)
        table = self._table(X)
        draws = self.posterior_.sample(n_samples, table, seed=seed_of(random_state), joint=True)
        return np.transpose(draws.numpy())  # axes reversed: points first, samples last

    def _law(self, X: Any) -> Any:
        check_is_fitted(self)
        return self.posterior_.predict(self._table(X))

    def _table(self, X: Any) -> Array:
        checked: Any = validate_data(self, X, dtype=np.float64, reset=False)
        return checked

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class NNGPClassifier(ClassifierMixin, BaseEstimator):
    """Classification by label regression with the kernel of an infinitely wide dense network.

    Args:
        depth: hidden layers.
        activation: a name, see `probnet.kernels`.
        noise_ratio: of the label regression, or where its search starts.
        optimize: whether to fit the hyper-parameters by evidence.
        alpha: shape of the inverse-gamma prior of the scale.
        beta: its rate.
        random_state: seed.

    Attributes:
        classes_: labels, in the order of the columns of `predict_proba`.
        posterior_: the fitted posterior, on standardised inputs.
    """

    def __init__(
        self,
        *,
        depth: int = 3,
        activation: str = "relu",
        noise_ratio: float = 0.01,
        optimize: bool = False,
        alpha: float = 2.0,
        beta: float = 2.0,
        random_state: Any = None,
    ) -> None:
        self.depth = depth
        self.activation = activation
        self.noise_ratio = noise_ratio
        self.optimize = optimize
        self.alpha = alpha
        self.beta = beta
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to a table `(n, d)` and labels `(n,)` of any type."""
        checked: Any = validate_data(self, X, y, dtype=np.float64)
        table, targets = checked
        self.classes_, labels = class_numbers("NNGPClassifier", targets)
        self._standardizer = Standardizer.fit(table)
        model: Any = ScaleMixtureClassifier(
            NNGPKernel(mlp(self.depth, self.activation), last_w_var=2.0),
            scale_prior=InverseGamma(self.alpha, self.beta),
            noise_ratio=self.noise_ratio,
        )
        self.posterior_: Any = model.fit(
            self._standardizer.transform(table), labels, optimize=self.optimize,
            seed=seed_of(self.random_state), progress=False,
        )  # fmt: skip
        return self

    def predict_proba(self, X: Any) -> Array:
        """Class probabilities `(n, classes)`."""
        check_is_fitted(self)
        table: Any = validate_data(self, X, dtype=np.float64, reset=False)
        return self.posterior_.predict(self._standardizer.transform(table)).probs.numpy()

    def predict(self, X: Any) -> Array:
        """The most probable label of each row."""
        best = self.predict_proba(X).argmax(-1)
        return self.classes_[best]
