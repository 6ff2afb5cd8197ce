"""Eigenvalues of the curvature of a log density: the negative of its Hessian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

DENSE_DIM = 500
"""Up to this dimension the whole spectrum is computed; above it, its two ends."""

_ENDS = 8
_LANCZOS_STEPS = 12

LogDensityFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of the curvature at a point, ascending, in float64.

    Attributes:
        eigenvalues: shape (k,), k = dim where complete.
        eigenvectors: their unit vectors as columns, shape (dim, k).
        resolution: rounding error of an eigenvalue; what lies below may be zero or negative.
        num_gradients: what it cost, in gradients of the log density.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    resolution: float
    num_gradients: int

    @property
    def complete(self) -> bool:
        """Whether all directions are there, and not only the stiffest and softest."""
        return self.eigenvectors.shape[0] == self.eigenvectors.shape[1]

    @property
    def curved(self) -> Tensor:
        """Which eigenvalues are positive beyond doubt, shape (k,)."""
        return self.eigenvalues > self.resolution


def curvature_spectrum(log_density: LogDensityFunction, position: Tensor) -> Spectrum:
    """Spectrum of the negative Hessian of `log_density` at a position (dim,).

    Dense up to 500 dimensions; above, the 8 largest and smallest by Lanczos, from products
    with the Hessian.

    Raises:
        ValueError: if the Hessian is not finite, or there is no positive curvature at all.
        RuntimeError: if the density cannot be vectorised.
    """
    dim = len(position)
    if dim <= DENSE_DIM:
        matrix = negative_hessian(log_density, position)
        values, vectors = torch.linalg.eigh(matrix)
        cost = 2 * dim
    else:
        values, vectors, cost = _ends(log_density, position)
    largest = float(values[-1])
    if largest <= 0:
        raise ValueError(
            "the log density has no positive curvature at its mode (the largest eigenvalue of "
            f"the negative Hessian is {largest:.3g}), so it sets no scale for a step."
        )
    eps = torch.finfo(position.dtype).eps
    return Spectrum(values, vectors, 10 * dim**0.5 * eps * largest, cost)


def negative_hessian(log_density: LogDensityFunction, position: Tensor) -> Tensor:
    """The dense curvature (dim, dim) in float64, made symmetric.

    Raises:
        ValueError: if it is not finite.
    """
    identity = torch.eye(len(position), dtype=position.dtype, device=position.device)
    rows = hessian_products(log_density, position.expand_as(identity), identity)
    matrix = -(rows + rows.mT).double().cpu() / 2
    _check(matrix)
    return matrix


def hessian_products(
    log_density: LogDensityFunction, positions: Tensor, vectors: Tensor
) -> Tensor:
    """The Hessian at every position times its vector; all of shape (points, dim)."""
    gradient: Any = torch.func.grad(log_density)

    def product(position: Tensor, vector: Tensor) -> Tensor:
        pullback: Any = torch.func.vjp(gradient, position)[1]  # symmetric: its own transpose
        return pullback(vector)[0]

    try:
        return torch.func.vmap(product)(positions, vectors).detach()
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        raise RuntimeError(
            "the curvature needs a log density that can be vectorised, without branches on "
            f"values or .item(). torch said: {error}"
        ) from error


def largest_curvature(
    log_density: LogDensityFunction, positions: Tensor, start: Tensor
) -> tuple[Tensor, int]:
    """Largest eigenvalue of the curvature at every position, shape (points,), by Lanczos.

    At most 12 products a point, all points at once, fully reorthogonalised. The value
    approaches the eigenvalue from below.

    Args:
        log_density: of one position.
        positions: shape (points, dim).
        start: a guess of the eigenvector, shape (dim,); no component may vanish altogether.

    Returns:
        The eigenvalues in float64, and the gradients per point that they cost.
    """
    steps = min(_LANCZOS_STEPS, positions.shape[1])
    basis = (start / start.norm()).to(positions).expand_as(positions)[:, None]
    projected = positions.new_zeros(len(positions), steps, steps, dtype=torch.float64)
    for step in range(steps):
        image = -hessian_products(log_density, positions, basis[:, step])
        projected[:, : step + 1, step] = torch.einsum("pkd,pd->pk", basis, image).double()
        for _ in range(2):
            image = image - torch.einsum("pkd,pk->pd", basis, _dots(basis, image))
        norm = image.norm(dim=-1, keepdim=True)
        tiny = torch.finfo(image.dtype).tiny
        basis = torch.cat([basis, (image / norm.clamp(min=tiny))[:, None]], dim=1)
    _check(projected)
    upper = projected.triu()
    symmetric = upper + projected.triu(1).mT
    return torch.linalg.eigvalsh(symmetric)[:, -1].cpu(), 2 * steps


def _dots(basis: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("pkd,pd->pk", basis, vector)


def _ends(log_density: LogDensityFunction, position: Tensor) -> tuple[Tensor, Tensor, int]:
    """The largest and smallest eigenvalues and their vectors, and the gradients it took."""
    dim, count = len(position), 0

    def multiply(vector: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 2
        given = torch.as_tensor(vector).to(position).reshape(1, dim)
        product = -hessian_products(log_density, position[None], given)[0].double().cpu()
        _check(product)
        return product.numpy()

    make_operator: Any = LinearOperator
    solve: Any = eigsh
    operator = make_operator((dim, dim), matvec=multiply, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=dim)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for end in ("SA", "LA"):
        try:
            pair: Any = solve(
                operator, _ENDS, which=end, v0=start, tol=1e-3, maxiter=60, ncv=4 * _ENDS
            )
        except ArpackNoConvergence as error:  # clustered: those that did converge
            pair = error.eigenvalues, error.eigenvectors
        found.append(pair)
    values = np.concatenate([pair[0] for pair in found])
    vectors = np.concatenate([pair[1] for pair in found], axis=1)
    order = np.argsort(values)
    return torch.as_tensor(values[order]), torch.as_tensor(vectors[:, order]), count


def _check(product: Tensor) -> None:
    if not bool(product.isfinite().all()):
        raise ValueError(
            "the Hessian of the log density is not finite. Two derivatives of the model must "
            "exist there; start elsewhere with `init`, or set `step_size` by hand."
        )
