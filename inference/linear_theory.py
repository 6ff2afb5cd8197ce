"""What each sampler does on a quadratic target, exactly: its bias and its autocorrelation.

Along an eigenvector of curvature λ a step is linear, s' = drift s + noise, with s = (θ, p), or
θ alone for Langevin dynamics. Its stationary covariance C solves C = drift C driftᵀ + noise;
the autocovariances are the powers of the drift times C. All of it broadcasts over eigenvalues,
step sizes and frictions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray

_THERMOSTAT_SWEEPS = 30


class LinearStep(NamedTuple):
    """One step in each eigen-direction, T = 1.

    Attributes:
        drift: response to the state, (..., m, m).
        noise: covariance of the injected noise, (..., m, m).
        kick: response to an error of the gradient, (..., m).
    """

    drift: Array
    noise: Array
    kick: Array


class Prediction(NamedTuple):
    """Figures per eigen-direction; infinite where the step is unstable.

    Attributes:
        discretisation: relative error of the stationary variance with exact gradients.
        gradient_noise: what the gradient's noise adds to it.
        autocorrelation: integrated autocorrelation time in steps, the longer of that of θ
            (for means) and of θ² (for variances).
    """

    discretisation: Array
    gradient_noise: Array
    autocorrelation: Array

    @property
    def inflation(self) -> Array:
        """Relative error of the stationary variance in all."""
        return self.discretisation + self.gradient_noise


def baoa(eigenvalue: Array, step_size: Array, friction: Array) -> LinearStep:
    """SGHMC with `integrator="baoa"`; μ = exp(−aε)."""
    lam, eps, mu = np.broadcast_arrays(eigenvalue, step_size, np.exp(-friction * step_size))
    half = eps * (1 + mu) / 2
    drift = _matrix([[1 - eps * lam * half, half], [-mu * eps * lam, mu]])
    injected = np.stack([eps / 2, np.ones_like(eps)], axis=-1)
    noise = (1 - mu**2)[..., None, None] * _outer(injected)
    return LinearStep(drift, noise, np.stack([eps * half, mu * eps], axis=-1))


def symplectic(
    eigenvalue: Array, step_size: Array, friction: Array, damping: Array | None = None
) -> LinearStep:
    """SGHMC with `integrator="symplectic"`; a thermostat's `damping` may differ from a."""
    damping = friction if damping is None else damping
    lam, eps, injected, alpha = np.broadcast_arrays(
        eigenvalue, step_size, 2 * friction * step_size, damping * step_size
    )
    drift = _matrix(
        [[1 - eps**2 * lam, eps * (1 - alpha)], [-eps * lam, 1 - alpha]],
    )
    together = np.stack([eps, np.ones_like(eps)], axis=-1)
    noise = injected[..., None, None] * _outer(together)
    return LinearStep(drift, noise, eps[..., None] * together)


def thermostat(
    eigenvalue: Array, step_size: Array, friction: Array, gradient_variance: Array
) -> LinearStep:
    """SGNHT: the symplectic step at the damping that holds the mean of p² at T.

    The directions must be the last axis. Fluctuations of the thermostat about its mean,
    of order 1/√dim, are left out.
    """
    injected = 2 * friction * step_size + step_size**2 * gradient_variance
    h = step_size**2 * eigenvalue
    alpha = friction * step_size
    with np.errstate(all="ignore"):
        for _ in range(_THERMOSTAT_SWEEPS):
            square = injected / ((2 - alpha) * (1 - h / (2 * (2 - alpha))))
            alpha = np.where(alpha < 1, square, np.inf).mean(-1, keepdims=True)
    alpha = np.where(np.isfinite(alpha) & (alpha > 0), alpha, 3.0)  # 3: counted as unstable
    return symplectic(eigenvalue, step_size, friction, alpha / step_size)


def langevin(eigenvalue: Array, step_size: Array, friction: Array | None = None) -> LinearStep:
    """SGLD; there is no friction."""
    del friction
    lam, eps = np.broadcast_arrays(eigenvalue, step_size)
    return LinearStep(
        (1 - eps * lam)[..., None, None], 2 * eps[..., None, None], eps[..., None]
    )


def predict(
    step: LinearStep,
    eigenvalue: Array,
    gradient_variance: Array,
    steps_per_epoch: float | None = None,
) -> Prediction:
    """Bias and autocorrelation time along each eigenvector, from the Lyapunov equation.

    Args:
        step: of the sampler.
        eigenvalue: λ, of the directions.
        gradient_variance: V, of a minibatch gradient.
        steps_per_epoch: N/n, where rows are drawn without replacement within an epoch; then
            the gradients' errors nearly cancel over an epoch. None: they are independent.
    """
    drift, size = step.drift, step.drift.shape[-1]
    stable = _stable(drift)
    drift = np.where(stable[..., None, None], drift, 0.0)
    exact = _lyapunov(drift, step.noise)
    law = exact + _noise_law(drift, step.kick, gradient_variance, steps_per_epoch)
    total, column = law[..., 0, 0], law[..., :, :1]
    first = 2 * np.linalg.solve(np.eye(size) - drift, column)[..., 0, 0] / total - 1
    squares = _lyapunov(drift, column @ np.swapaxes(column, -1, -2))[..., 0, 0]
    second = 2 * squares / total**2 - 1
    return Prediction(
        *(
            np.where(stable, figure, np.inf)
            for figure in (
                eigenvalue * exact[..., 0, 0] - 1,
                eigenvalue * (total - exact[..., 0, 0]),
                np.maximum(first, second),
            )
        )
    )


def _noise_law(
    drift: Array, kick: Array, variance: Array, steps_per_epoch: float | None
) -> Array:
    """What the gradient's errors add to the stationary covariance, a mean over the epoch.

    Two batches of an epoch have no row in common, so that their errors have covariance
    −V/(N/n − 1): they are independent errors of variance V + V/(N/n − 1), less a part of
    variance V/(N/n − 1) that is the same throughout the epoch.
    """
    square = _outer(kick)
    if steps_per_epoch is None or steps_per_epoch < 2:
        return _lyapunov(drift, variance[..., None, None] * square)
    common = variance / (steps_per_epoch - 1)
    whole = int(steps_per_epoch)
    independent = _lyapunov(drift, (variance + common)[..., None, None] * square)
    shared = common[..., None, None] * _constant_over_blocks(drift, kick, whole)
    return independent - shared


def _constant_over_blocks(drift: Array, kick: Array, length: int) -> Array:
    """Covariance under kicks of unit variance, the same in a block, independent between.

    From s at a block's start its j-th state is Aʲs + (I − Aʲ)b m with b = (I − A)⁻¹k; sums over
    j of Aʲ X (Aʲ)ᵀ solve a Lyapunov equation.
    """
    one = np.eye(drift.shape[-1])
    power = np.linalg.matrix_power(drift, length)
    fixed = np.linalg.solve(one - drift, kick[..., None])
    last = fixed - power @ fixed
    start = _lyapunov(power, last @ np.swapaxes(last, -1, -2))

    def mean(matrix: Array) -> Array:
        moved = power @ matrix @ np.swapaxes(power, -1, -2)
        return _lyapunov(drift, matrix - moved) / length

    square = fixed @ np.swapaxes(fixed, -1, -2)
    cross = np.linalg.solve(one - drift, last) @ np.swapaxes(fixed, -1, -2) / length
    return mean(start + square) + square - cross - np.swapaxes(cross, -1, -2)


def _stable(drift: Array) -> Array:
    if drift.shape[-1] == 1:
        return np.abs(drift[..., 0, 0]) < 1
    determinant = np.linalg.det(drift)
    trace = np.trace(drift, axis1=-2, axis2=-1)
    return (np.abs(determinant) < 1) & (np.abs(trace) < 1 + determinant)


def _lyapunov(drift: Array, added: Array) -> Array:
    """C = drift C driftᵀ + added, by Kronecker products: the states are tiny."""
    size = drift.shape[-1]
    kron = np.einsum("...ik,...jl->...ijkl", drift, drift)
    kron = kron.reshape(*drift.shape[:-2], size**2, size**2)
    shape = np.broadcast_shapes(drift.shape, added.shape)
    flat = np.broadcast_to(added, shape).reshape(*shape[:-2], size**2, 1)
    return np.linalg.solve(np.eye(size**2) - kron, flat).reshape(shape)


def _matrix(entries: list[list[Array]]) -> Array:
    return np.stack([np.stack(row, axis=-1) for row in entries], axis=-2)


def _outer(vector: Array) -> Array:
    return vector[..., :, None] * vector[..., None, :]
