"""`inference.suggest_step_size`: step size and friction from the curvature of the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from inference import linear_theory
from inference._checks import check_choice, check_fraction, check_integer
from inference.binding import bind
from inference.curvature import DENSE_DIM, Spectrum, curvature_spectrum
from inference.data import Leaves
from inference.errors import warn
from inference.gradient_noise import EVALUATIONS, gradient_variance
from inference.gradients import LogDensityAndGradient, log_density_and_gradient
from inference.initial import Init, initial_positions
from inference.log_density import LogDensity
from inference.mode import full_log_density, locate_mode
from inference.step_budget import Choice, StepOf, choose
from inference.targets import Target
from inference.typical_set import Density, explore

METHODS = ("sghmc", "sghmc_adaptive", "sgld", "sgnht")
INTEGRATORS = {"sghmc": ("baoa", "symplectic"), "sghmc_adaptive": ("symplectic", "baoa")}

CONTROL_VARIATES = ("mode",)
BIAS_OF = ("directions", "parameters")

_LARGEST_H = 2.0
_LARGEST_DECAY = {"baoa": 3.0, "symplectic": 0.99}


@dataclass(frozen=True)
class Suggestion:
    """A step size, what goes with it, and what to expect of it.

    Attributes:
        method: of `inference.sample`.
        step_size: ε.
        friction: a, of `"sghmc"` and `"sgnht"`; otherwise None.
        momentum_decay: α, of `"sghmc_adaptive"`; otherwise None.
        integrator: of `"sghmc"` and `"sghmc_adaptive"`; otherwise None.
        batch_size: rows per gradient; None: all.
        control_variates: as `inference.sample` takes them.
        discretisation_inflation: predicted relative error of the variance along the worst
            direction that the finite step makes.
        gradient_noise_inflation: and that which the minibatches make.
        autocorrelation_time: predicted, in steps, of the slowest direction: of its mean or
            its variance, whichever is the slower.
        largest_curvature: the largest eigenvalue of the negative Hessian in the typical set;
            for `"sghmc_adaptive"` in its own coordinates.
        smallest_curvature: the smallest positive one at the mode.
        num_gradients: what the suggestion cost, in gradients of all the data.
    """

    method: str
    step_size: float
    friction: float | None
    momentum_decay: float | None
    integrator: str | None
    batch_size: int | None
    control_variates: str | None
    discretisation_inflation: float
    gradient_noise_inflation: float
    autocorrelation_time: float
    largest_curvature: float
    smallest_curvature: float
    num_gradients: int

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `inference.sample`, those that are set."""
        names = ("step_size", "friction", "momentum_decay", "integrator", "batch_size")
        found = {name: getattr(self, name) for name in names}
        found["control_variates"] = self.control_variates
        return {"method": self.method} | {n: v for n, v in found.items() if v is not None}

    @property
    def ess_per_1000_steps(self) -> float:
        """Predicted effective draws of the slowest direction, per chain."""
        return 1000 / self.autocorrelation_time

    def __str__(self) -> str:
        """A few lines for people."""
        options = ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value!r}"
            for name, value in self.options.items()
        )
        return (
            f"{options}\n"
            f"  curvature {self.smallest_curvature:.3g} to {self.largest_curvature:.3g}\n"
            f"  variance inflation at worst {100 * self.discretisation_inflation:+.2g} % by "
            f"the step, {100 * self.gradient_noise_inflation:+.2g} % by minibatches\n"
            f"  autocorrelation time {self.autocorrelation_time:.3g} steps: "
            f"{self.ess_per_1000_steps:.3g} effective draws per 1000 steps\n"
            f"  cost {self.num_gradients} gradients of all the data"
        )


def suggest_step_size(
    target: LogDensity | Callable[..., Any],
    data: Any = None,
    *,
    method: str = "sghmc",
    batch_size: int | None = None,
    control_variates: str | None = None,
    integrator: str | None = None,
    bias: float = 0.03,
    bias_of: str = "directions",
    seed: int = 0,
    init: Init = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    backend: str = "auto",
) -> Suggestion:
    r"""Step size and friction of a stochastic-gradient sampler, from the target's curvature.

    Around the mode the target is taken as Gaussian, and along each eigenvector of the Hessian
    the sampler as the linear recursion that it then is. Of all steps and frictions whose
    predicted variances are within `bias` of the truth in every direction, those are taken that
    make the longest autocorrelation time, of means and of variances, the shortest. The noise of
    minibatch gradients is measured at positions of the typical set. Independent minibatches
    would inflate a variance by about ε²V(1+μ)/(4(1−μ)), μ = exp(−aε); those of an epoch, which
    share no row, do so far less where a direction takes an epoch or longer to mix, and that is
    what is predicted. The largest curvature is the largest met in the
    typical set, and ε²λ is kept below 2, half the limit of stability.

    The error that a finite step makes where the target is not Gaussian is not predicted.
    Targets of several modes are judged by the one that is found.

    Source: Leimkuhler & Matthews (2013) for BAOAB on quadratics; the search over its
    Lyapunov equations, and their form for epochs, are ours.

    Args:
        target: a model or a `LogDensity`, as for `sample`.
        data: as for `sample`.
        method: `"sghmc"`, `"sghmc_adaptive"`, `"sgld"` or `"sgnht"`.
        batch_size: rows per gradient, as it will be in `sample`; None: all.
        control_variates: `"mode"` if gradients will be corrected by those at the mode.
        integrator: of `"sghmc"` (by default `"baoa"`) or `"sghmc_adaptive"` (`"symplectic"`).
        bias: largest relative error of a posterior variance, in (0, 1).
        bias_of: of which variances: `"directions"`, those of every linear combination of
            the unconstrained parameters, or `"parameters"`, their own. Minibatches heat the
            stiffest directions most, which have little part in the parameters' variances:
            the second budget allows much larger steps. Up to 500 dimensions.
        seed: of everything random.
        init: where the search for the mode starts, as for `sample`.
        dtype: of parameters and data; `torch.float64` resolves a wide spectrum.
        device: where to run.
        backend: as for `sample`.

    Returns:
        The suggestion: `inference.sample(target, data, **suggestion.options)`.

    Raises:
        ValueError: on an argument out of range, a density without a mode, or minibatches too
            noisy for `bias`.
        TypeError: on a target that cannot be sampled.
        InitError: if no starting point has a finite log density.
    """
    check_choice("method", method, METHODS)
    check_fraction("bias", bias, closed=False)
    check_choice("bias_of", bias_of, BIAS_OF)
    check_integer("seed", seed, 0)
    integrator = _check_integrator(method, integrator)
    if control_variates is not None:
        check_choice("control_variates", control_variates, CONTROL_VARIATES)
    bound = bind(
        target, data, batch_size=batch_size, dtype=dtype, device=device, backend=backend
    )
    if control_variates is not None and bound.batch_size is None:
        raise ValueError("`control_variates` need a `batch_size` below the number of data.")
    with pyro.validation_enabled(False):
        survey = _survey(
            bound,
            control_variates is not None,
            init,
            seed,
            scaled=method == "sghmc_adaptive",
        )
    shares = None
    if bias_of == "parameters":
        shares = survey.shares
        if shares is None:
            raise ValueError(
                "bias_of='parameters' needs the whole spectrum, of at most "
                f"{DENSE_DIM} dimensions; the target has {bound.layout.dim}."
            )
    epoch = None if bound.batch_size is None else (bound.num_data or 1) / bound.batch_size
    found = _choose(survey, method, integrator, bias, shares, epoch)
    worst = int(np.abs(found.prediction.inflation).argmax())
    decay = found.friction * found.step_size
    if integrator == "baoa":
        decay = -float(np.expm1(-decay))
    return Suggestion(
        method=method,
        step_size=found.step_size,
        friction=found.friction if method in ("sghmc", "sgnht") else None,
        momentum_decay=decay if method == "sghmc_adaptive" else None,
        integrator=integrator,
        batch_size=bound.batch_size,
        control_variates=control_variates,
        discretisation_inflation=float(found.prediction.discretisation[worst]),
        gradient_noise_inflation=float(found.prediction.gradient_noise[worst]),
        autocorrelation_time=float(found.prediction.autocorrelation.max()),
        largest_curvature=survey.largest,
        smallest_curvature=float(survey.eigenvalues[0]),
        num_gradients=survey.num_gradients,
    )


@dataclass(frozen=True)
class _Survey:
    """What a target looks like to a sampler.

    Attributes:
        eigenvalues: positive curvatures at the mode, ascending, (k,).
        gradient_variance: along each eigenvector, (k,).
        shares: of each eigenvector in the variance of each parameter, (dim, k); None where
            only the ends of the spectrum are known.
        largest: curvature in the typical set.
        num_gradients: of all the data, that it took.
    """

    eigenvalues: np.ndarray
    gradient_variance: np.ndarray
    shares: np.ndarray | None
    largest: float
    num_gradients: int


def _survey(
    target: Target, control_variates: bool, init: Init, seed: int, *, scaled: bool
) -> _Survey:
    """Mode, spectrum, typical set and gradient noise of a target.

    Args:
        target: with its minibatches.
        control_variates: whether its gradients have them.
        init: where to start.
        seed: of everything random.
        scaled: in the coordinates of scale-adapted SGHMC, θ_i V̂_i^(1/4).
    """
    evaluate = log_density_and_gradient(target, "vectorized")
    density = _density(target, evaluate)
    start = initial_positions(target, evaluate, init, seed, 1)[0]
    mode = locate_mode(target, start)
    spectrum = curvature_spectrum(density.value, mode.position)
    near = explore(density, mode, spectrum, seed)
    cost = mode.num_evaluations + spectrum.num_gradients + near.num_gradients
    noisy = _noisy_gradient(evaluate, mode.position if control_variates else None)
    share = (target.batch_size or 0) / (target.num_data or 1)
    per_survey = int(2 * EVALUATIONS * len(near.positions) * share * (1 + control_variates))
    scale = torch.ones_like(mode.position)
    if scaled:
        square = density.value_and_gradient(near.positions)[1].square().mean(0)
        square += gradient_variance(target, noisy, near.positions, seed).mean(0)
        scale = square.pow(-0.25)
        density = _rescale(density, scale)
        mode = mode._replace(position=mode.position / scale)
        spectrum = curvature_spectrum(density.value, mode.position)
        near = explore(density, mode, spectrum, seed)
        cost += per_survey + spectrum.num_gradients + near.num_gradients
    curved = spectrum.curved
    if not bool(curved.all()):
        warn(
            f"{int((~curved).sum())} of {len(curved)} directions have no positive curvature at "
            "the mode: the friction is chosen for the others, and nothing is known of how fast "
            "these mix."
        )
    variance = gradient_variance(
        target, _along(noisy, spectrum, scale), near.positions * scale, seed
    )
    return _Survey(
        spectrum.eigenvalues[curved].numpy(),
        variance.mean(0)[: len(curved)].double().cpu()[curved].numpy(),
        _shares(spectrum) if spectrum.complete else None,
        near.largest_curvature,
        cost + per_survey,
    )


def _density(target: Target, evaluate: LogDensityAndGradient) -> Density:
    value = full_log_density(target)
    if value == target.log_density:
        return Density(value, lambda positions: evaluate(positions, None))
    whole = torch.func.vmap(torch.func.grad_and_value(value))

    def value_and_gradient(positions: Tensor) -> tuple[Tensor, Tensor]:
        gradients, values = whole(positions)
        return values, gradients

    return Density(value, value_and_gradient)


def _rescale(density: Density, scale: Tensor) -> Density:
    """The density in the coordinates θ / scale."""

    def value_and_gradient(positions: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = density.value_and_gradient(positions * scale)
        return values, gradients * scale

    return Density(lambda position: density.value(position * scale), value_and_gradient)


def _noisy_gradient(
    evaluate: LogDensityAndGradient, anchor: Tensor | None
) -> LogDensityAndGradient:
    """The minibatch gradient; with an anchor, less that at the anchor on the same batch."""
    if anchor is None:
        return evaluate

    def difference(positions: Tensor, batch: Leaves | None) -> tuple[Tensor, Tensor]:
        values, gradients = evaluate(positions, batch)
        return values, gradients - evaluate(anchor.expand_as(positions), batch)[1]

    return difference


def _along(
    evaluate: LogDensityAndGradient, spectrum: Spectrum, scale: Tensor
) -> LogDensityAndGradient:
    """Its components along the eigenvectors, in place of the coordinates."""
    rotation = scale[:, None] * spectrum.eigenvectors.to(scale)
    padding = len(rotation) - rotation.shape[1]

    def rotated(positions: Tensor, batch: Leaves | None) -> tuple[Tensor, Tensor]:
        values, gradients = evaluate(positions, batch)
        return values, torch.nn.functional.pad(gradients @ rotation, (0, padding))

    return rotated


def _shares(spectrum: Spectrum) -> np.ndarray:
    """How much of each parameter's variance lies along each curved eigenvector."""
    curved = spectrum.curved
    variance = spectrum.eigenvectors[:, curved].square() / spectrum.eigenvalues[curved]
    return (variance / variance.sum(-1, keepdim=True)).numpy()


def _choose(
    survey: _Survey,
    method: str,
    integrator: str | None,
    bias: float,
    shares: np.ndarray | None,
    steps_per_epoch: float | None,
) -> Choice:
    """The best step of a method; the stiffest point of the typical set is a direction too."""
    limit = (_LARGEST_H / survey.largest) ** 0.5
    scheme = integrator or "symplectic"
    step_of: StepOf = quadratic_step(method, scheme)
    if method == "sgld":
        limit = 1 / survey.largest
    return choose(
        step_of,
        np.append(survey.eigenvalues, survey.largest),
        np.append(survey.gradient_variance, survey.gradient_variance.max()),
        largest_step=limit,
        largest_decay=_LARGEST_DECAY[scheme],
        bias=bias,
        shares=None if shares is None else np.pad(shares, ((0, 0), (0, 1))),
        steps_per_epoch=steps_per_epoch,
    )


def quadratic_step(method: str, scheme: str) -> StepOf:
    """The linear step of a method on a quadratic, by integrator."""
    if method == "sgnht":
        return linear_theory.thermostat
    if method == "sgld":
        return lambda values, step, friction, variance: linear_theory.langevin(values, step)
    kind = linear_theory.baoa if scheme == "baoa" else linear_theory.symplectic
    return lambda values, step, friction, variance: kind(values, step, friction)


def _check_integrator(method: str, integrator: str | None) -> str | None:
    if method not in INTEGRATORS:
        if integrator is not None:
            raise ValueError(f"method {method!r} has no `integrator`; leave it out.")
        return None
    if integrator is None:
        return INTEGRATORS[method][0]
    return check_choice("integrator", integrator, INTEGRATORS[method])
