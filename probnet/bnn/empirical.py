"""Hyper-parameters of a Gaussian process by marginal likelihood."""

from __future__ import annotations

import copy
from typing import Any

import gpytorch
import torch
from torch import Tensor

from inference.errors import warn
from probnet._checks import Values, check_table
from probnet.standardizer import Standardizer

_MAX_ROWS = 2000
_MAX_STEPS = 200


def fit_kernel(
    x: Values, y: Values, kernel: gpytorch.kernels.Kernel | None
) -> tuple[gpytorch.kernels.Kernel, float]:
    """The kernel of highest marginal likelihood on the standardised table, and the noise.

    Args:
        x: inputs `(n, d)`.
        y: targets `(n,)`.
        kernel: where to start; `None` for an RBF with one lengthscale per input.

    Returns:
        A fitted copy of the kernel, and the noise variance in units of the standardised target.

    Raises:
        ValueError: on more than 2000 rows, whose exact marginal likelihood is too dear here.
    """
    inputs, targets = check_table(x, y)
    if len(inputs) > _MAX_ROWS:
        raise ValueError(
            f"`x` must have at most {_MAX_ROWS} rows for exact marginal likelihood; got "
            f"{len(inputs)}. Pass a random subset."
        )
    inputs = Standardizer.fit(inputs).transform(inputs)
    targets = Standardizer.fit(targets).transform(targets)
    if kernel is None:
        d = inputs.shape[1]
        rbf = gpytorch.kernels.RBFKernel(ard_num_dims=d)
        rbf.lengthscale = torch.full((1, d), (2.0 * d) ** 0.5)
        kernel = gpytorch.kernels.ScaleKernel(rbf)
    kernel = copy.deepcopy(kernel).double()
    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    likelihood.noise = torch.tensor(0.1)
    model = _ExactGP(inputs, targets, likelihood, kernel)
    _maximise(model, likelihood, inputs, targets)
    return kernel, float(likelihood.noise.detach())


class _ExactGP(gpytorch.models.ExactGP):
    def __init__(self, x: Tensor, y: Tensor, likelihood: Any, kernel: Any) -> None:
        super().__init__(x, y, likelihood)
        self.kernel = kernel

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(x.new_zeros(len(x)), self.kernel(x))


def _maximise(model: _ExactGP, likelihood: Any, x: Tensor, y: Tensor) -> None:
    evidence: Any = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    model.train()
    optimiser = torch.optim.LBFGS(
        list(model.parameters()), max_iter=_MAX_STEPS, line_search_fn="strong_wolfe"
    )

    def closure() -> Any:
        optimiser.zero_grad()
        with gpytorch.settings.fast_computations(False, False, False):
            loss = -evidence(model(x), y)
        loss.backward()
        return loss

    optimiser.step(closure)
    if not bool(torch.isfinite(closure().detach())):
        warn("the marginal likelihood became non-finite; the kernel is not fitted.")
