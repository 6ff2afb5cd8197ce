"""Classification with a shared scale: label regression, and the choice of method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from gpytorch.kernels import Kernel
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.distributions import Categorical, Distribution

from inference._checks import check_choice
from probnet._archive import PosteriorState
from probnet._checks import Values, as_array, check_labels
from probnet.nngp.posterior import ScaleMixturePosterior
from probnet.nngp.priors import InverseGamma, ScalePrior
from probnet.nngp.regression import ScaleMixtureGP
from probnet.nngp.variational import VariationalClassifierPosterior, fit_variational
from probnet.posterior import Posterior

if TYPE_CHECKING:
    import xarray

_DEFAULT_PRIOR = InverseGamma(2.0, 2.0)


@dataclass(frozen=True, eq=False, repr=False)
class LabelRegressionPosterior(Posterior, family="nngp.label_regression"):
    """One regression of centred one-hot labels; class logits are its mean times a factor.

    Attributes:
        regression: posterior of the one-hot labels, one output per class.
        temperature: the factor, which minimises the leave-one-out class NLL.
    """

    regression: ScaleMixturePosterior
    temperature: float
    method: str
    diagnostics: Mapping[str, Any]

    @property
    def log_evidence(self) -> float:
        """That of the regression: a density of one-hot labels."""
        return self.regression.log_evidence

    def predict(
        self, x: Values, *, observation: bool = True, joint: bool = False
    ) -> Distribution:
        """Class probabilities at new inputs: a `Categorical` of batch shape `(m,)`.

        Args:
            x: inputs.
            observation: `False`: the latent regression, batch shape `(classes, m)`.
            joint: not offered.

        Raises:
            ValueError: on `joint=True`.
        """
        if joint:
            raise ValueError("`joint=True`: label regression has no joint law of the labels.")
        if not observation:
            return self.regression.predict(x, observation=False)
        mean = self.regression.predict(x, observation=False).mean
        return Categorical(logits=self.temperature * mean.T, validate_args=False)

    def to_datatree(self) -> xarray.DataTree:
        """That of the regression."""
        return self.regression.to_datatree()

    def state(self) -> PosteriorState:
        """See `Posterior.state`."""
        inner = self.regression.state()
        config = {
            "temperature": self.temperature,
            "regression": dict(inner.config),
            "regression_method": inner.method,
        }
        return PosteriorState(self.method, self.diagnostics, config, inner.tensors)

    @classmethod
    def from_state(cls, state: PosteriorState) -> LabelRegressionPosterior:
        """See `Posterior.from_state`."""
        config = state.config
        inner = PosteriorState(
            config["regression_method"], state.diagnostics, config["regression"], state.tensors
        )
        regression = ScaleMixturePosterior.from_state(inner)
        return cls(regression, config["temperature"], state.method, state.diagnostics)


class ScaleMixtureClassifier:
    """Classes c = 0..C-1 with latent f_c | σ² ~ GP(0, σ²k) that share one σ² ~ H.

    Args:
        kernel: any GPyTorch kernel.
        scale_prior: H; a `PointMass` gives the Gaussian process.
        noise_ratio: of label regression.
        num_inducing: of `method="svi"`.
        memory_limit: as for `ScaleMixtureGP`.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        scale_prior: ScalePrior = _DEFAULT_PRIOR,
        noise_ratio: float = 0.01,
        num_inducing: int = 200,
        memory_limit: float = 8 * 2**30,
    ) -> None:
        self._regression = ScaleMixtureGP(
            kernel, scale_prior=scale_prior, noise_ratio=noise_ratio, memory_limit=memory_limit
        )
        self.kernel, self.scale_prior = kernel, scale_prior
        self.noise_ratio, self.num_inducing = self._regression.noise_ratio, num_inducing

    def fit(
        self,
        x: Values,
        labels: Values,
        *,
        method: Literal["label_regression", "svi"] = "label_regression",
        optimize: bool = False,
        seed: int = 0,
        progress: bool = True,
        **options: Any,
    ) -> LabelRegressionPosterior | VariationalClassifierPosterior:
        """Learn from labelled inputs.

        Args:
            x: inputs `(n, d)`, or images.
            labels: whole numbers 0..C-1, each of which occurs, `(n,)`.
            method: `"label_regression"`: exact Gaussian regression of centred one-hot labels,
                then class logits with a factor chosen by closed-form leave-one-out; `"svi"`:
                a variational posterior of the latents under the softmax likelihood, whitened,
                with full covariance and one scale per draw.
            optimize: whether label regression fits the hyper-parameters by evidence first.
            seed: of everything random.
            progress: show a progress bar on a terminal.
            options: of `"svi"`, see `probnet.nngp.variational.fit_variational`; of label
                regression `max_evaluations`.

        Raises:
            ValueError: on a single class, or labels that are not 0..C-1.
        """
        check_choice("method", method, ("label_regression", "svi"))
        classes = _check_classes(labels)
        if method == "svi":
            return fit_variational(
                self.kernel, self.scale_prior, x, classes,
                num_inducing=self.num_inducing, seed=seed, progress=progress, **options,
            )  # fmt: skip
        one_hot = torch.nn.functional.one_hot(classes).double()
        regression = self._regression.fit(
            x, one_hot - one_hot.mean(0), optimize=optimize, progress=progress, **options
        )
        assert isinstance(regression, ScaleMixturePosterior)
        temperature, loss = _temperature(regression.leave_one_out().mean, classes)
        diagnostics = {**regression.diagnostics, "leave_one_out_nll": loss}
        return LabelRegressionPosterior(regression, temperature, method, diagnostics)


def _check_classes(labels: Values) -> Tensor:
    """Class numbers as int64, every class present."""
    raw = as_array("labels", labels)
    top = int(raw.max()) + 1 if raw.size and np.isfinite(raw).all() else 1
    classes = torch.from_numpy(check_labels("labels", labels, max(top, 1)))
    counts = torch.bincount(classes, minlength=top)
    if len(counts) < 2:
        raise ValueError("`labels` must hold at least two classes; got class 0 only.")
    if bool((counts == 0).any()):
        missing = (counts == 0).nonzero().flatten().tolist()
        raise ValueError(
            f"`labels` must number the classes 0..{len(counts) - 1} without gaps; classes "
            f"{missing[:5]} never occur. Renumber by np.unique(labels, return_inverse=True)."
        )
    return classes


def _temperature(mean: Tensor, classes: Tensor) -> tuple[float, float]:
    """The factor of the logits with the smallest leave-one-out NLL, and that NLL."""

    def loss(log_factor: float) -> float:
        logits = float(np.exp(log_factor)) * mean
        return float(torch.nn.functional.cross_entropy(logits, classes))

    found: Any = minimize_scalar(loss, bounds=(-5.0, 8.0), method="bounded")
    return float(np.exp(found.x)), float(found.fun)
