"""Choosing a weight prior whose functions behave like a target's."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from inference._checks import check_choice, check_integer, check_options
from inference.errors import warn
from inference.rng import Stream, stream_seed
from probnet.bnn.critic import CriticSettings, minimise_w1
from probnet.bnn.measurement import Grid, MeasurementSet
from probnet.bnn.networks import BayesianMLP, BayesianNetwork
from probnet.bnn.objectives import (
    energy_distance,
    has_wide_limit,
    minimise_lbfgs,
    nngp_covariance,
    penalty,
    sampled_w2,
)
from probnet.bnn.priors import GaussianPrior, WeightPrior
from probnet.bnn.quality import COVARIANCE_LIMIT, MatchReport, compare, one_output
from probnet.bnn.random_features import RandomFeaturePrior
from probnet.bnn.registry import family_prior
from probnet.bnn.targets import Target, cholesky
from probnet.linalg import gaussian_w2

_EIGENVALUE_FLOOR = 1e-9
OBJECTIVES = ("energy", "gaussian_w2", "sampled_w2", "wasserstein1")
_START_STD = 1.3132616875182228  # softplus(1), where the paper starts
_START_CONCENTRATIONS = (3.0, 10.0, 30.0)
_COMMON_FUNCTIONS = 512
_LBFGS_STEPS = 100
_REPORT_SET = 1 << 16  # number of a measurement set that no optimisation sees
_ADAM_RATE = 0.05


@dataclass(frozen=True, eq=False)
class Match:
    """A matched prior.

    Attributes:
        prior: to be given to `BNN`.
        report: how well it matches.
        trace: the objective at every step of an iterative stage; may be empty.
    """

    prior: WeightPrior
    report: MatchReport
    trace: list[float]


@dataclass(frozen=True)
class _Problem:
    """The arguments of `match_prior`, checked."""

    network: BayesianNetwork
    target: Target
    measurement: MeasurementSet | Grid
    seed: int
    progress: bool

    def points(self, number: int) -> Tensor:
        """Measurement set of this number."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, Stream.BATCH, number))
        return self.measurement.draw(generator)


def match_prior(
    network: BayesianNetwork,
    target: Target,
    measurement: MeasurementSet | Grid,
    *,
    objective: str = "gaussian_w2",
    start: WeightPrior | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Match:
    """Choose the hyper-parameters of a network's prior so that its functions are the target's.

    - Family `"rff"`: closed form; nothing is optimised.
    - `"gaussian_w2"`: the Gaussian 2-Wasserstein distance, by L-BFGS, between the target's
      covariance and that of the infinitely wide network, which is exact at any width for one
      hidden layer; with more of them, and for convolutional networks, `"sampled_w2"` follows.
      Families `"hierarchical"` and `"flow"` start from there and go on with `"energy"`.
    - `"sampled_w2"`: the same distance with the covariance of 512 sampled functions under
      common random numbers.
    - `"energy"`: Adam on the energy distance of sampled functions.
    - `"wasserstein1"`: the paper's neural critic; options are those of
      `probnet.bnn.critic.CriticSettings`.

    A weak penalty on W₂²/M, 0.02 (log σ/1.5)² for the first layer and 0.002 for the others,
    keeps scales from running to infinity.

    Source: Tran, Rossi, Milios & Filippone (JMLR 2022) for the problem and the critic.

    Args:
        network: architecture and family.
        target: the law of functions that is wanted.
        measurement: where functions are compared.
        objective: one of those above.
        start: a prior of the same network to start from.
        seed: of measurement sets and sampled functions.
        progress: show a progress bar on a terminal.
        **options: `num_steps` and `num_functions` of `"energy"`; the critic's settings.

    Returns:
        The prior, with a report.

    Raises:
        ValueError: if dimensions do not fit, or a target has no spectral density to sample from
            for the family `"rff"`.
        TypeError: on an unknown option.
    """
    check_choice("objective", objective, OBJECTIVES)
    check_integer("seed", seed, 0)
    _check_dimensions(network, target, measurement)
    _check_start(network, start)
    allowed = {
        "wasserstein1": [field.name for field in fields(CriticSettings)],
        "energy": ["num_functions", "num_steps"],
    }.get(objective, [])
    check_options(f"objective {objective!r}", options, allowed)
    problem = _Problem(network, target, measurement, seed, progress)
    started = time.process_time()
    prior, trace, evaluations = _optimise(problem, objective, start, options)
    seconds = time.process_time() - started
    measured = compare(prior, target, problem.points(_REPORT_SET), seed=seed)
    report = MatchReport(
        objective="closed_form" if network.family == "rff" else objective,
        num_evaluations=evaluations,
        seconds=seconds,
        standardized=measurement.standardized,
        representable=measured["cov_frobenius"] <= COVARIANCE_LIMIT,
        **measured,
    )
    if not report.representable:
        warn(
            f"this architecture cannot represent the target: the relative error of the "
            f"covariance is {report.cov_frobenius:.2f} > {COVARIANCE_LIMIT} after matching. "
            f"Try wider or deeper layers, another activation, or family='rff', exact for "
            f"stationary kernels."
        )
    return Match(prior, report, trace)


def _optimise(
    problem: _Problem, objective: str, start: WeightPrior | None, options: Mapping[str, Any]
) -> tuple[WeightPrior, list[float], int]:
    network = problem.network
    if network.family == "rff":
        return _closed_form(problem), [], 0
    if objective == "wasserstein1":
        settings = CriticSettings(**options)
        prior, trace = minimise_w1(
            start or family_prior(network, _start_stds(network)),
            partial(_draw_pair, problem, settings.num_functions),
            problem.measurement.size,
            settings,
            seed=problem.seed,
            progress=problem.progress,
        )
        return prior, trace, settings.num_outer
    if objective == "energy":
        return _minimise_energy(
            problem, start or family_prior(network, _start_stds(network)), **options
        )
    gaussian, loss, evaluations = _match_gaussian(problem, objective, start)
    if network.family == "gaussian":
        return gaussian, [loss], evaluations
    stds = {name: float(value) for name, value in gaussian.hyperparameters.items()}
    prior, trace, more = _minimise_energy(problem, _best_start(problem, stds))
    return prior, trace, evaluations + more


def _match_gaussian(
    problem: _Problem, objective: str, start: WeightPrior | None
) -> tuple[GaussianPrior, float, int]:
    """Gaussian scales by second moments: the wide limit first, then sampled functions."""
    network, x = problem.network, problem.points(0)
    factor = cholesky(problem.target.covariance(x))
    if isinstance(start, GaussianPrior):
        log_stds = start.free()
    else:
        log_stds = {
            n: torch.tensor(s, dtype=torch.float64).log()
            for n, s in _start_stds(network).items()
        }
    loss, evaluations = float("nan"), 0
    wide = has_wide_limit(network) and objective == "gaussian_w2"
    if wide:

        def limit(free: dict[str, Tensor]) -> Tensor:
            covariance = nngp_covariance(cast(BayesianMLP, network), free, x)
            return gaussian_w2(covariance, factor, floor=_EIGENVALUE_FLOOR) / len(x) + penalty(
                free
            )

        log_stds, loss, evaluations = minimise_lbfgs(limit, log_stds, max_steps=_LBFGS_STEPS)
    shallow = isinstance(network, BayesianMLP) and len(network.hidden) <= 1
    prior = GaussianPrior(network, {n: v.exp() for n, v in log_stds.items()})
    if not wide or not shallow:
        latents = prior.draw_latents(_COMMON_FUNCTIONS, seed=problem.seed)

        def sampled(free: dict[str, Tensor]) -> Tensor:
            functions = one_output(prior.with_free(free).function_values(x, latents))
            return sampled_w2(functions, factor) / len(x) + penalty(free)

        log_stds, loss, more = minimise_lbfgs(sampled, log_stds, max_steps=_LBFGS_STEPS // 4)
        evaluations += more
        prior = prior.with_free(log_stds)
    return prior, loss, evaluations


def _minimise_energy(
    problem: _Problem, prior: WeightPrior, *, num_steps: int = 100, num_functions: int = 256
) -> tuple[WeightPrior, list[float], int]:
    """Adam on the energy distance, with fresh functions and measurement sets at every step."""
    check_integer("num_steps", num_steps, 1)
    check_integer("num_functions", num_functions, 2)
    free = {n: v.requires_grad_() for n, v in prior.free().items()}
    optimiser = torch.optim.Adam(list(free.values()), lr=_ADAM_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / num_steps))
    trace: list[float] = []
    bar = tqdm(range(num_steps), "match", disable=None if problem.progress else True)
    for step in bar:
        f, g = _draw_pair(problem, num_functions, 2 * step, prior.with_free(free))
        loss = energy_distance(f, g)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        trace.append(float(loss.detach()))
    return prior.with_free({n: v.detach() for n, v in free.items()}), trace, num_steps


def _draw_pair(
    problem: _Problem, count: int, number: int, prior: WeightPrior
) -> tuple[Tensor, Tensor]:
    """Functions of the prior and of the target at the measurement set number // 2."""
    x = problem.points(number // 2)
    ours, theirs = (
        stream_seed(problem.seed, purpose, number)
        for purpose in (Stream.INIT, Stream.PREDICTIVE)
    )
    f = prior.function_values(x, prior.draw_latents(count, seed=ours))
    return one_output(f), problem.target.sample(x, count, seed=theirs)


def _closed_form(problem: _Problem) -> RandomFeaturePrior:
    spectrum = problem.target.spectrum
    if spectrum is None:
        raise ValueError(
            "`target` must have a known spectral density for family='rff': an RBF, Matérn or "
            "rational quadratic kernel (scaled or not, with fixed hyper-parameters), a "
            "HierarchicalGPTarget. For others pass the density itself: "
            "network.prior(spectrum=SpectralDensity(...))."
        )
    return RandomFeaturePrior.from_spectrum(problem.network, spectrum)


def _best_start(problem: _Problem, stds: Mapping[str, float]) -> WeightPrior:
    """Of the family's priors with these scales, that with the smallest energy distance."""
    network = problem.network
    if network.family != "hierarchical":
        return family_prior(network, stds)
    priors = [family_prior(network, stds, alpha) for alpha in _START_CONCENTRATIONS]
    with torch.no_grad():
        distances = [
            float(energy_distance(*_draw_pair(problem, _COMMON_FUNCTIONS, 0, prior)))
            for prior in priors
        ]
    return priors[distances.index(min(distances))]


def _start_stds(network: BayesianNetwork) -> dict[str, float]:
    return dict.fromkeys(network.shapes, _START_STD)


def _check_start(network: BayesianNetwork, start: WeightPrior | None) -> None:
    if start is not None and start.network != network:
        raise ValueError(
            f"`start` must be a prior of the network that is matched, {network}; got one of "
            f"{start.network}."
        )


def _check_dimensions(
    network: BayesianNetwork, target: Target, measurement: MeasurementSet | Grid
) -> None:
    for name, dim in (("target", target.input_dim), ("measurement", measurement.input_dim)):
        if dim is not None and dim != network.input_dim:
            raise ValueError(
                f"`{name}` has {dim} input columns, but the network takes {network.input_dim}."
            )
