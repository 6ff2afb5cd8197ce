"""`invert`: from noisy values of a solution to the posterior of its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from probnet._checks import Values
from probnet.neural_operator.inverse_posterior import InversePosterior
from probnet.neural_operator.latent_inversion import invert_model, invert_models
from probnet.neural_operator.latent_model import GenerativeOperator, LatentModel
from probnet.neural_operator.model_error import ModelError

_errors: WeakKeyDictionary[GenerativeOperator, ModelError] = WeakKeyDictionary()


def invert(
    trained: GenerativeOperator,
    y: Values,
    sensors: Values,
    *,
    noise_sd: float | None = None,
    method: str = "nuts",
    num_chains: int = 4,
    num_samples: int = 500,
    num_warmup: int | None = None,
    seed: int = 0,
    model_error: str | ModelError | None = "validation",
    exact_correction: str | None = "psis",
    progress: bool = True,
    **options: Any,
) -> InversePosterior:
    r"""The posterior of an input given noisy point values of the solution.

    Latent vectors z = flow(w), w ~ N(0, I), are drawn from

        p(w | y) ∝ N(w; 0, I) N(y; H û(z) + μ_e, σ²I + Σ_e),

    with the mean and covariance of the network's error e on validation inputs, solved exactly.
    Which law the result has depends on `exact_correction`, and `diagnostics["law"]` names it:

    - `None`: this one. Solutions have a draw of e, given the data, added.
    - `"psis"`: importance weights to p(w) N(y; H G(a(z)), σ²I), G the exact discrete solver,
      if Pareto's k-hat is below 0.7. If not, a warning, and the draws stay as they are.
    - `"delayed_acceptance"`: Markov chains for that exact law, coarser meshes screening.

    Virtual observables of finite precision, by which the network was trained, are no part of
    any of these laws: the network enters as a function.

    Source: Zang & Koutsourelakis (J. Comput. Phys. 538, 2025) for inversion in latent space, by
    a point estimate; Kennedy & O'Hagan (JRSS B 63, 2001) for the model error.

    Args:
        trained: from `DGenNO.fit`, with a flow prior or without.
        y: observed values, shape (num_sensors,).
        sensors: where, in the domain, shape (num_sensors, num_dims).
        noise_sd: of the measurement noise, in the units of `y`; must be given.
        method: `"nuts"`, `"hmc"` (all chains at once) or `"svi"` (a Gaussian guide).
        num_chains: chains; SVI returns one, of independent draws.
        num_samples: draws kept per chain.
        num_warmup: steps before the first draw, 100 by default, 150 for `"hmc"`.
        seed: of everything random.
        model_error: `"validation"`, a `ModelError`, or `None` to trust the network.
        exact_correction: see above.
        progress: show bars on a terminal.
        options: of the method, for `inference.sample` or `inference.fit`.

    Raises:
        ValueError: on bad observations, or an argument out of range.
        TypeError: on an option that the method does not take.

    Warns:
        InferenceWarning: of chains that disagree, and of weights that cannot be used.
    """
    model = LatentModel.of(trained)
    return invert_model(
        model,
        y,
        sensors,
        noise_sd=noise_sd,
        error=_error(trained, model, model_error),
        method=method,
        num_chains=num_chains,
        num_samples=num_samples,
        num_warmup=num_warmup,
        seed=seed,
        exact_correction=exact_correction,
        progress=progress,
        **options,
    )


def invert_many(
    trained: GenerativeOperator,
    ys: Sequence[Values],
    sensors: Sequence[Values],
    *,
    noise_sd: float | None = None,
    num_chains: int = 4,
    num_samples: int = 500,
    num_warmup: int | None = None,
    seed: int = 0,
    model_error: str | ModelError | None = "validation",
    exact_correction: str | None = None,
    progress: bool = True,
) -> list[InversePosterior]:
    """`invert` of several problems at once: HMC with all chains of all problems in one batch.

    Args:
        trained: the operator.
        ys: observed values of each problem, of equal number.
        sensors: of each problem.
        noise_sd: of the measurement noise, in all of them.
        num_chains: chains for each.
        num_samples: draws kept per chain.
        num_warmup: steps before the first draw, 150 by default.
        seed: of everything random.
        model_error: as for `invert`.
        exact_correction: as for `invert`; `None` by default.
        progress: show bars on a terminal.

    Raises:
        ValueError: as `invert`, or if the numbers of observations differ.
    """
    model = LatentModel.of(trained)
    return invert_models(
        model,
        ys,
        sensors,
        noise_sd=noise_sd,
        error=_error(trained, model, model_error),
        num_chains=num_chains,
        num_samples=num_samples,
        num_warmup=num_warmup,
        seed=seed,
        exact_correction=exact_correction,
        progress=progress,
    )


def _error(
    trained: GenerativeOperator, model: LatentModel, model_error: str | ModelError | None
) -> ModelError | None:
    """The law of the model error; that of validation inputs is computed once per operator."""
    if model_error is None or isinstance(model_error, ModelError):
        return model_error
    if model_error != "validation":
        raise ValueError(
            f"`model_error` must be 'validation', a ModelError or None; got {model_error!r}."
        )
    if trained not in _errors:
        _errors[trained] = model.validate(trained.validation)
    return _errors[trained]
