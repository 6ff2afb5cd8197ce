"""Training: the energy falls to the solution, resumes bit-equal, and refuses bad arguments."""

import signal
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch

import inference
from probnet.datasets.fields import InflowProfile, LevelSetGRF, SineSeries
from probnet.metrics import relative_l2
from probnet.neural_operator import (
    Burgers,
    Darcy2D,
    DGenNO,
    GaussianInput,
    MultiONet,
    Stokes,
    TwoPhase,
    WendlandTests,
)
from probnet.neural_operator.training import Training

MEDIA = LevelSetGRF(num_nodes=9)


@pytest.fixture
def make(small_model):
    return partial(small_model, latent_dim=8)


def _fit(model, source=MEDIA, **options):
    settings = {"num_steps": 12, "batch_size": 8, "num_validation": 8, "progress": False}
    return model.fit(source, **{**settings, **options})


def _weights(trained):
    return torch.cat([p.flatten() for p in trained.networks.parameters()])


def _error(trained, count=50):
    pde, media = trained.problem, MEDIA.sample(count, seed=99)
    exact = pde.solve(pde.coefficients(media)).flatten(1)
    return relative_l2(exact, trained.predict(media).mean, case_axis=0), exact


@pytest.mark.slow
def test_inputs_alone_teach_the_forward_map(make):
    """Predicting the mean of the solutions, which needs solutions, is the control."""
    trained = _fit(make(), num_steps=400, batch_size=32)
    error, exact = _error(trained)
    control = relative_l2(exact, exact.mean(0).expand_as(exact), case_axis=0)
    assert error < 0.6 * control
    assert trained.diagnostics["validation_relative_l2"] == pytest.approx(error, rel=0.5)
    assert abs(trained.diagnostics["validation_ratio"] - 1) < 0.05
    assert trained.precision > 10


@pytest.mark.parametrize("method", ["muon", "adam"])
def test_a_resumed_training_is_bit_equal(make, method, tmp_path):
    whole = _fit(make(), method=method)
    folder = tmp_path / "run"
    taken = []

    def interrupt(self, original=None):
        taken.append(1)
        _take_step(self)
        if len(taken) == 5:
            signal.raise_signal(signal.SIGINT)

    _take_step = Training._take_step
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with patch.object(Training, "_take_step", interrupt):
        part = _fit(make(), method=method, checkpoint=folder)
    assert part.diagnostics["interrupted"]
    assert part.diagnostics["steps_taken"] == 5
    resumed = _fit(make(), method=method, checkpoint=folder, resume=True)
    assert torch.equal(_weights(resumed), _weights(whole))
    assert torch.equal(resumed.curve, whole.curve)
    assert not torch.equal(_weights(part), _weights(whole))
    with pytest.raises(FileExistsError, match="holds a training already"):
        _fit(make(), method=method, checkpoint=folder)
    with pytest.raises(ValueError, match="other settings"):
        _fit(make(), method=method, checkpoint=folder, resume=True, batch_size=4)


def test_equal_seeds_give_equal_weights_whatever_the_progress_bar(make):
    first = _fit(make(), seed=5)
    assert torch.equal(_weights(first), _weights(_fit(make(), seed=5, progress=True)))
    assert not torch.equal(_weights(first), _weights(_fit(make(), seed=6)))


def test_tables_with_and_without_labels(make):
    pde, table = Darcy2D(mesh=(8, 8)), MEDIA.sample(60, seed=1)
    plain = _fit(make(), table)
    assert len(plain.validation) == 6
    solutions = pde.solve(pde.coefficients(table))
    labelled = _fit(make(), table, labels=solutions, num_steps=150)
    without = _fit(make(), table, num_steps=150)
    assert not torch.equal(_weights(labelled), _weights(without))
    assert _error(labelled)[0] < 0.5


def test_the_energys_bias_is_its_squared_relative_error_and_the_scale_removes_it(make):
    """For the best scaled û, ∫f(u* - û) = ‖u* - û‖²_a: an identity, tested at that scale."""
    plain = _fit(make(), num_steps=150, calibrate=False)
    pde, media = plain.problem, plain.validation
    a = pde.coefficients(media)
    exact = pde.solve(a)
    u = plain.predict(media, observation=False).mean.reshape(exact.shape)

    def product(left, right):
        return (left * pde.stiffness_product(right, a)).sum()

    best = u * (product(exact, u) / product(u, u))
    error = best - exact
    assert float(1 - best.sum() / exact.sum()) == pytest.approx(
        float(product(error, error) / product(exact, exact)), rel=1e-6
    )
    scaled = _fit(make(), num_steps=150)
    assert scaled.diagnostics["uncalibrated_ratio"] == pytest.approx(
        plain.diagnostics["validation_ratio"]
    )
    found = scaled.predict(media, observation=False).mean
    assert not (found * (found - exact.flatten(1))).sum().abs() > 1e-5 * found.square().sum()
    torch.testing.assert_close(
        found, u.flatten(1) * scaled.diagnostics["scale_factors"][0], rtol=1e-5, atol=1e-7
    )


def test_every_physics_and_form_trains(make):
    for pde, options in (
        (Darcy2D(mesh=(8, 8), physics="dual_norm"), {"physics": "dual_norm"}),
        (Darcy2D(mesh=(8, 8)), {"physics": WendlandTests(num_centres=10, radius=0.1)}),
        (Darcy2D(mesh=(8, 8)), {"encoder": "deterministic", "physics": "energy"}),
        (Darcy2D(mesh=(8, 8)), {"input_likelihood": TwoPhase(5.0, 10.0, form="bernoulli")}),
        (Darcy2D(mesh=(8, 8)), {"input_likelihood": GaussianInput(positive=True)}),
    ):
        trained = _fit(make(pde, **options), num_steps=3)
        assert torch.isfinite(trained.curve).all()


def test_burgers_keeps_its_initial_values(make):
    pde, fields = Burgers(mesh=(16, 8)), SineSeries(num_nodes=17, num_modes=2)
    model = make(pde, input_grid=(17,), input_likelihood=GaussianInput(0.02, zero_at_ends=True))
    trained = _fit(model, fields, num_steps=5)
    start = fields.sample(3)
    values = trained.predict(start).mean.reshape(3, 17, 9)
    torch.testing.assert_close(values[..., 0], start, rtol=0, atol=1e-6)
    assert trained.decode_solution(torch.zeros(2, 8)).shape == (2, 17 * 9)


@pytest.mark.parametrize("num_outputs", [None, 3])
def test_stokes_has_three_components(make, num_outputs):
    pde, inflows = Stokes(num_cells=4), InflowProfile(num_nodes=33)
    model = make(
        pde,
        input_grid=(33,),
        input_likelihood=GaussianInput(0.05, zero_at_ends=True),
        decoder=MultiONet(width=16, depth=3, sum_layers=2, num_outputs=num_outputs),
    )
    trained = _fit(model, inflows, num_steps=5)
    law = trained.predict(inflows.sample(2), pde.nodes[:7])
    assert law.mean.shape == law.stddev.shape == (2, 7, 3)
    assert len(trained.diagnostics["scale_factors"]) == 3
    with pytest.raises(ValueError, match="for scalar solutions only"):
        trained.predict(inflows.sample(2), joint=True)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (LevelSetGRF(num_nodes=10), {}, "fitted input grid"),
        (LevelSetGRF(num_nodes=9, high=11.0), {}, "values 5 and 10"),
        (MEDIA.sample(10), {}, "too few to keep a tenth"),
        (MEDIA.sample(40), {"labels": torch.zeros(39, 81)}, "one solution per input, 40"),
        (MEDIA.sample(40), {"labels": torch.zeros(40, 80)}, "81 nodal values"),
        (MEDIA, {"labels": torch.zeros(40, 81)}, "need a table"),
        (MEDIA, {"method": "sgd"}, "`method` must be one of"),
        (MEDIA, {"resume": True}, "needs `checkpoint`"),
    ],
)
def test_bad_training_arguments_are_refused(make, source, options, message):
    with pytest.raises(ValueError, match=message):
        _fit(make(), source, **options)


def test_bad_models_are_refused(make):
    with pytest.raises(ValueError, match="offers 'dual_norm'"):
        make(Burgers(mesh=(16, 8)), physics="energy", input_grid=(17,))
    with pytest.raises(ValueError, match="Make the problem with physics='dual_norm'"):
        make(physics="dual_norm")
    with pytest.raises(ValueError, match="written for Darcy2D"):
        make(Burgers(mesh=(16, 8)), physics=WendlandTests(), input_grid=(17,))
    with pytest.raises(TypeError, match="must be a Problem"):
        DGenNO("darcy")
    with pytest.raises(TypeError, match="takes no option `momentum`"):
        _fit(make(), momentum=0.9)


def test_an_outlying_gradient_is_shortened_to_twice_the_usual_norm():
    run = Training.__new__(Training)  # of which only these two are asked
    run.networks = torch.nn.ParameterList([torch.zeros(3), torch.zeros(1)])
    run.usual_norm = torch.zeros(())

    def limited(norm):
        for parameter in run.networks.parameters():
            parameter.grad = torch.full_like(parameter, norm / 2)  # 4 numbers
        run._limit_gradient()
        return float(torch.nn.utils.get_total_norm([p.grad for p in run.networks.parameters()]))

    assert [limited(1.0) for _ in range(3)] == pytest.approx([1, 1, 1])
    assert limited(1.9) == pytest.approx(1.9)
    usual = float(run.usual_norm)
    assert usual == pytest.approx(1.9**0.05)
    assert limited(1e6) == pytest.approx(2 * usual, rel=1e-4)
    assert limited(1e-3) == pytest.approx(1e-3)
    assert np.isnan(limited(float("nan")))  # which the bound then reports


def test_a_training_that_learns_nothing_is_named(make):
    with pytest.warns(inference.InferenceWarning, match="the training is lost"):
        _fit(make(), num_steps=200, learning_rate=1e-9, muon_learning_rate=1e-9)
