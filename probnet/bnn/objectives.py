"""Distances between the functions of a weight prior and those of a target."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from inference.errors import InferenceWarning
from probnet.bnn.networks import BayesianMLP, BayesianNetwork
from probnet.kernels import NNGPKernel, mlp
from probnet.kernels.neural import Architecture

_FIRST_PENALTY, _PENALTY, _PENALTY_SCALE = 0.02, 0.002, 1.5
_LOG_STD_BOUND = 7.0

Free = dict[str, Tensor]


def sampled_w2(functions: Tensor, factor: Tensor) -> Tensor:
    """`gaussian_w2` with K = FᵀF/S for functions F `(S, M)`, by singular values."""
    scaled = functions / len(functions) ** 0.5
    overlap = torch.linalg.svdvals(scaled @ factor).sum()
    return scaled.square().sum() + factor.square().sum() - 2 * overlap


def energy_distance(f: Tensor, g: Tensor) -> Tensor:
    """Unbiased estimate of 2E‖f-g‖ - E‖f-f'‖ - E‖g-g'‖ from functions `(S, M)`."""

    def within(v: Tensor) -> Tensor:
        return torch.pdist(v).mean()

    return 2 * torch.cdist(f, g).mean() - within(f) - within(g)


def has_wide_limit(network: BayesianNetwork) -> bool:
    """Whether `nngp_covariance` covers the network: any MLP but one of cosine features."""
    return isinstance(network, BayesianMLP) and network.family != "rff"


def nngp_covariance(network: BayesianMLP, log_stds: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Covariance of the functions of an infinitely wide network, `(M, M)`.

    Exact at any width for at most one hidden layer; an error of O(1/width) beyond.

    Args:
        network: whose depth and activation count.
        log_stds: logarithm of the standard deviation of each weight tensor; carries gradients.
        x: points `(M, d)`.
    """
    depth = len(network.hidden)
    variances = {name: 2 * value for name, value in log_stds.items()}
    if not depth:
        return variances["w1"].exp() * x @ x.mT / x.shape[1] + variances["b1"].exp()

    def layers(letter: str) -> Tensor:
        return torch.stack([variances[f"{letter}{layer}"] for layer in range(1, depth + 1)])

    last = variances[f"w{depth + 1}"], variances[f"b{depth + 1}"]
    kernel = _WideLimit(
        mlp(depth, network.activation),
        *(v.exp() for v in (layers("w"), layers("b"), *(v.reshape(1) for v in last))),
    )
    with warnings.catch_warnings():
        # A step activation lacks 1e-4 of a moment in the kernel's series; matches stop at 1e-2.
        warnings.simplefilter("ignore", InferenceWarning)
        return kernel.forward(x, x)


class _WideLimit(NNGPKernel):
    """The kernel at variances that are computed from others, and carry their gradients."""

    def __init__(self, architecture: Architecture, *variances: Tensor) -> None:
        super().__init__(architecture)
        self._variances = variances

    w_var = property(lambda self: self._variances[0])  # pyright: ignore[reportIncompatibleMethodOverride] - read-only
    b_var = property(lambda self: self._variances[1])  # pyright: ignore[reportIncompatibleMethodOverride] - read-only
    last_w_var = property(lambda self: self._variances[2])  # pyright: ignore[reportIncompatibleMethodOverride] - read-only
    last_b_var = property(lambda self: self._variances[3])  # pyright: ignore[reportIncompatibleMethodOverride] - read-only


def penalty(log_stds: Mapping[str, Tensor]) -> Tensor:
    """A weak pull of the scales towards one: without it some optima lie at infinity.

    It is stronger on the first layer, whose scales set how steep the hidden units are: between
    measurement points steps and smooth functions have the same covariance.
    """
    squares = {name: (value / _PENALTY_SCALE).square() for name, value in log_stds.items()}
    first = sum((squares.pop(name) for name in ("w1", "b1")), torch.zeros(()))
    return _FIRST_PENALTY * first + _PENALTY * sum(squares.values(), torch.zeros(()))


def minimise_lbfgs(
    loss: Callable[[Free], Tensor], start: Free, *, max_steps: int
) -> tuple[Free, float, int]:
    """Minimise a smooth deterministic loss of free parameters by L-BFGS-B, in float64.

    Args:
        loss: of parameters by name.
        start: where to start; logarithms, kept within ±7.
        max_steps: L-BFGS iterations at most.

    Returns:
        The minimiser, the loss there, and the number of evaluations.
    """
    sizes = [v.numel() for v in start.values()]

    def split(vector: Tensor) -> Free:
        pieces = vector.split(sizes)
        return {n: p.reshape(v.shape) for (n, v), p in zip(start.items(), pieces, strict=True)}

    def evaluate(vector: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(vector, dtype=torch.float64, requires_grad=True)
        value = loss(split(leaf))
        (gradient,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), gradient.numpy()

    first = torch.cat([v.reshape(-1) for v in start.values()]).numpy()
    found: Any = minimize(
        evaluate,
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=[(-_LOG_STD_BOUND, _LOG_STD_BOUND)] * len(first),
        options={"maxiter": max_steps, "ftol": 1e-10, "gtol": 1e-7},
    )
    return split(torch.from_numpy(found.x)), float(found.fun), int(found.nfev)
