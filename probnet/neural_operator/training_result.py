"""From a finished training to a trained operator: scale and error on validation inputs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from inference.errors import warn
from inference.rng import Stream, generator
from probnet.metrics import relative_l2
from probnet.neural_operator.latent_prior import fit_latent_prior
from probnet.neural_operator.solution_error import SolutionError
from probnet.neural_operator.trained import TrainedOperator
from probnet.neural_operator.training import Training

_ENOUGH_STEPS = 200  # for any training to be better than no input at all


@torch.no_grad()
def finish_training(run: Training, examples: Tensor, *, interrupted: bool) -> TrainedOperator:
    """The trained operator, its scale and error those of the validation inputs.

    Warns:
        InferenceWarning: if inputs were of no use in spite of enough steps.

    Args:
        run: the training.
        examples: inputs (N, m) whose latents `fit_prior` may fit.
        interrupted: whether there were to be more steps.
    """
    trained = _with_networks(run, examples, interrupted=interrupted)
    problem, validation = trained.problem, trained.validation
    coefficients = problem.coefficients(validation)
    exact = problem.solve(coefficients).reshape(len(validation), *trained.error.rest.shape)
    predicted = trained.predict(validation, observation=False).mean
    found: dict[str, float | list[float]] = {"precision": trained.precision}
    if run.options.calibrate:
        found["uncalibrated_ratio"] = float(predicted.sum() / exact.sum())
        still = problem.ansatz(problem.nodes)(torch.zeros_like(exact), coefficients)
        factors = _scale_factors(predicted - still, exact - still)
        decoder = trained.networks.solution_decoder
        decoder.rescale(factors)
        decoder.float().double()  # files hold float32
        found["scale_factors"] = factors.tolist()
        predicted = trained.predict(validation, observation=False).mean
    found["validation_relative_l2"] = relative_l2(exact, predicted, case_axis=0)
    found["validation_ratio"] = float(predicted.sum() / exact.sum())
    without_input = relative_l2(exact, exact.mean(0).expand_as(exact), case_axis=0)
    if found["validation_relative_l2"] > without_input and run.step >= _ENOUGH_STEPS:
        warn(
            f"after {run.step} steps the relative error on validation inputs is "
            f"{found['validation_relative_l2']:.2g}, that of their mean solution is "
            f"{without_input:.2g}: the training is lost. Lower `learning_rate` and "
            f"`muon_learning_rate`; `curve` shows where it went wrong."
        )
    return replace(
        trained,
        error=SolutionError.of(predicted - exact),
        diagnostics={**trained.diagnostics, **found},
    )


def _with_networks(run: Training, examples: Tensor, *, interrupted: bool) -> TrainedOperator:
    """The operator before its error is known."""
    networks = run.networks.cpu().double().eval().requires_grad_(False)
    encoding = networks.encode(examples.cpu().double())
    stream = generator(run.seed, Stream.PREDICTIVE, 2)
    noise = torch.randn(encoding.mean.shape, generator=stream, dtype=torch.float64)
    problem = run.bound.problem
    components = [problem.num_components] if problem.num_components > 1 else []
    blank = torch.zeros(1, len(problem.nodes), *components, dtype=torch.float64)
    settings = run.settings()
    for name in ("networks", "input_likelihood", "problem"):
        del settings[name]
    latents = encoding.draw(noise)
    prior, densities = fit_latent_prior(latents, flow="gaussian", seed=run.seed)
    return TrainedOperator(
        problem=problem,
        networks=networks,
        likelihood=run.bound.likelihood,
        precision=float(run.precision),
        error=SolutionError(blank, blank[0]),
        validation=run.inputs.validation.cpu().unflatten(-1, networks.encoder.grid),
        latents=latents,
        curve=run.curve[: run.step].clone(),
        method=run.method,
        diagnostics={
            **settings,
            **densities,
            "steps_taken": run.step,
            "interrupted": interrupted,
        },
        prior=prior,
    )


def _scale_factors(predicted: Tensor, exact: Tensor) -> Tensor:
    """Least-squares c of exact ≈ c · predicted, one for each component, `(1,)` or `(c,)`."""
    axes = (0, 1)
    products = torch.atleast_1d((predicted * exact).sum(axes))
    squares = torch.atleast_1d(predicted.square().sum(axes))
    return torch.where(squares > 0, products / squares, torch.ones_like(squares))
