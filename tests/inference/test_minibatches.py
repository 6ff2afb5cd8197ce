"""Control variates: unbiased, quiet near their anchor, and worth it."""

import numpy as np
import pytest
import torch

import inference
from inference import InferenceWarning, LogDensity, diagnostics
from inference.binding import bind
from inference.gradients import log_density_and_gradient
from inference.minibatches import Anchor, Minibatches, controlled
from inference.mode import find_mode

N, BATCH = 400, 20
_RNG = np.random.default_rng(0)
X = torch.tensor(_RNG.normal(size=(N, 4)))
Y = torch.tensor((_RNG.random(N) < 1 / (1 + np.exp(-X.numpy() @ [1, -1, 0.5, 0]))) * 1.0)


def logistic():
    """A Bayesian logistic regression with a standard normal prior."""

    def log_lik(p, data):
        x, y = data
        logits = x @ p["w"]
        return y * logits - torch.nn.functional.softplus(logits)

    return LogDensity(
        log_prior=lambda p: -p["w"].square().sum() / 2,
        log_lik=log_lik,
        params={"w": torch.zeros(4).double()},
    )


@pytest.fixture(scope="module")
def bound():
    return bind(logistic(), (X, Y), batch_size=BATCH, dtype=None, device=None)


@pytest.fixture(scope="module")
def laplace(bound):
    """Mode and precision of the posterior."""
    mode = find_mode(bound, torch.zeros(4).double())
    p = torch.sigmoid(X @ mode)
    precision = X.mT * (p * (1 - p)) @ X + torch.eye(4)
    return mode, precision


def gradients(bound, position, anchor, count=400):
    """Minibatch gradients (count, dim) at one position."""
    plain = log_density_and_gradient(bound, "vectorized")
    batches = Minibatches(bound, 0, range(1))
    if anchor is not None:
        batches.anchor = Anchor(anchor[None], plain(anchor[None], None)[1])
        plain = controlled(plain)
    rows = batches.choose(count)
    return torch.stack([plain(position[None], batches.take(r))[1][0] for r in rows])


def test_unbiased_and_quieter_by_the_square_of_the_distance(bound, laplace):
    """Mean within four standard errors of the full gradient; the variance in closed form."""
    mode, precision = laplace
    plain = log_density_and_gradient(bound, "vectorized")
    noise = []
    for distance in (0.1, 0.2):
        position = mode + distance * torch.tensor([1.0, 0, 0, 0])
        full = plain(position[None], None)[1][0]
        for anchor in (None, mode):
            found = gradients(bound, position, anchor)
            error = (found.mean(0) - full).abs() / (found.std(0) / 400**0.5)
            assert float(error.max()) < 4
            noise.append(float(found.var(0).sum()))
    assert noise[1] < noise[0] / 50
    assert noise[3] / noise[1] == pytest.approx(4, rel=0.3)
    biased = gradients(bound, position, mode) + 0.05 * precision.diagonal()
    error = (biased.mean(0) - full).abs() / (biased.std(0) / 400**0.5)
    assert float(error.max()) > 4  # the check can fail


@pytest.mark.parametrize("kind", ["mode", "epoch"])
def test_draws_have_the_posterior_law(laplace, kind):
    """Against the Laplace law, whose own error is about 1 % here, at N/n = 20."""
    mode, precision = laplace
    draws = inference.sample(
        logistic(), (X, Y), batch_size=BATCH, control_variates=kind, num_chains=16,
        num_warmup=400, num_samples=500, thin=2, step_size=0.03, friction=10.0, seed=2,
        compile=False, progress=False,
    )  # fmt: skip
    assert draws.attrs["control_variates"] == kind
    assert 0 < draws.attrs["predicted_variance_inflation"]["max"] < 0.1
    w = draws.draws["w"]
    sd = precision.inverse().diagonal().sqrt().numpy()
    assert diagnostics.rhat(w).max() < 1.02
    assert (np.abs(w.mean((0, 1)) - mode.numpy()) / sd).max() < 0.2
    np.testing.assert_allclose(w.std((0, 1)) / sd, 1, atol=0.08)


def test_plain_gradients_at_that_step_are_far_too_wide(laplace):
    """The negative control of the test above."""
    _, precision = laplace
    with pytest.warns(InferenceWarning, match="kinetic temperature"):
        draws = inference.sample(
            logistic(), (X, Y), batch_size=BATCH, num_chains=16, num_warmup=400,
            num_samples=200, thin=2, step_size=0.03, friction=10.0, seed=2, compile=False,
            progress=False,
        )  # fmt: skip
    sd = precision.inverse().diagonal().sqrt().numpy()
    ratio = draws.draws["w"].std((0, 1)) / sd
    assert ratio.min() > 1.1
    assert draws.attrs["predicted_variance_inflation"]["max"] > 0.2


def test_estimated_noise_is_taken_off(laplace):
    """V̂ from the warm-up's minibatches; what is left of the inflation is small.

    About 800 effective draws: 5 % of a variance. The control is the predicted inflation of
    independent minibatches; those of epochs, which nearly cancel here, need no correction.
    """
    _, precision = laplace
    given = {
        "batch_size": BATCH, "num_chains": 32, "num_warmup": 600, "num_samples": 1000,
        "step_size": 0.015, "friction": 30.0, "thin": 6, "seed": 3, "compile": False,
        "progress": False,
    }  # fmt: skip
    variance = precision.inverse().diagonal().numpy()
    plain = inference.sample(logistic(), (X, Y), **given)
    assert plain.attrs["predicted_variance_inflation"]["max"] > 0.25
    corrected = inference.sample(logistic(), (X, Y), noise_correction=1.0, **given)
    half = inference.sample(logistic(), (X, Y), noise_correction=0.01, **given)
    excess = [d.draws["w"].var((0, 1)) / variance - 1 for d in (plain, corrected, half)]
    assert np.abs(excess[0]).max() < 0.15  # of epochs
    assert np.abs(excess[1]).max() < 0.12
    assert excess[2].mean() > 0.2  # independent, and as good as uncorrected
    assert corrected.state["gradient_variance"].shape == (32, 4)
    assert abs(corrected.attrs["predicted_variance_inflation"]["mean"]) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control_variates": "mode"}, "give `batch_size` too"),
        ({"control_variates": "never", "batch_size": 5}, "`control_variates` must be"),
        ({"noise_correction": 1.5, "batch_size": 5}, "`noise_correction`"),
        ({"noise_correction": 0.5, "batch_size": 5, "num_warmup": 1}, "`num_warmup` must be"),
        (
            {"noise_correction": 0.5, "gradient_variance": 1.0, "batch_size": 5},
            "leave one of them out",
        ),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(ValueError, match=message):
        inference.sample(logistic(), (X, Y), progress=False, **options)


def test_a_density_without_a_mode_has_no_anchor():
    flat = LogDensity(
        log_prior=lambda p: 0.0 * p["w"].sum(),
        log_lik=lambda p, d: d * p["w"].sum(),
        params={"w": torch.zeros(1).double()},
    )
    with pytest.raises(ValueError, match="no mode was found"):
        inference.sample(
            flat, torch.ones(10).double(), batch_size=2, control_variates="mode", progress=False
        )
