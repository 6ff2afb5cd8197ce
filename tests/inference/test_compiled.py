"""Compiled steps give the numbers of eager ones, and step aside where they cannot."""

import logging
import time

import numpy as np
import pytest
import torch

import inference
from inference import LogDensity, compiled
from inference.blocks import Block
from inference.samplers import SGHMC

pytestmark = pytest.mark.filterwarnings("ignore::inference.InferenceWarning")

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(60, 3))
Y = X @ np.array([1.0, -1.0, 0.5]) + _RNG.normal(size=60)
REGRESSION = LogDensity(
    log_prior=lambda p: -p["w"].square().sum() / 2 - p["scale"],
    log_lik=lambda p, d: -((d[1] - d[0] @ p["w"]) / p["scale"]).square() / 2 - p["scale"].log(),
    params={"w": torch.zeros(3).double(), "scale": torch.ones(()).double()},
    constraints={"scale": torch.distributions.constraints.positive},
)


def run(**options):
    given = {"num_chains": 2, "num_warmup": 0, "num_samples": 60, "thin": 2, "batch_size": 30}
    given |= {"seed": 1, "step_size": 0.02, "friction": 5.0, "progress": False}
    given |= {"init": {"w": np.zeros(3), "scale": 1.0}, "compile": True}
    return inference.sample(REGRESSION, (X, Y), **(given | options))


@pytest.fixture(autouse=True)
def small_graphs(monkeypatch):
    """Two steps to a call: the compiler takes a fraction of the time."""
    monkeypatch.setattr(compiled, "_MOST_UNROLLED", 2)


def test_draws_agree_and_a_run_goes_on_bit_for_bit(tmp_path):
    """Control variates, minibatches and redrawn momenta included; chunks do not matter."""
    options = {"control_variates": "epoch", "resample_every": 7}
    eager = run(compile=False, **options)
    found = run(**options)
    assert found.attrs["compiled"]
    assert not eager.attrs["compiled"]
    for name, values in eager.draws.items():
        np.testing.assert_allclose(found.draws[name], values, rtol=1e-7)
    for name, values in eager.sample_stats.items():
        np.testing.assert_allclose(
            found.sample_stats[name], values, rtol=1e-6, atol=1e-8, err_msg=name
        )
    run(checkpoint=tmp_path / "run", num_samples=20, **options)
    longer = inference.resume(
        tmp_path / "run", REGRESSION, (X, Y), num_samples=60, progress=False
    )
    chunked = run(chunk_size=10, **options)
    for name, values in found.draws.items():
        np.testing.assert_array_equal(longer.draws[name], values)
        np.testing.assert_array_equal(chunked.draws[name], values)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RuntimeError("no C++ compiler"), "no C++ compiler"),
        (lambda *_: time.sleep(0.5), "compilation took over 0.1 s"),
        (lambda *given: (given[0] + 1, *given[1:]), "other numbers"),
    ],
)
def test_what_cannot_be_compiled_runs_eagerly_and_says_why(
    monkeypatch, caplog, failure, reason
):
    def instead(graph, **_):
        def call(*arguments):
            if isinstance(failure, Exception):
                raise failure
            if failure(*arguments) is None:
                return graph(*arguments)
            return failure(*graph(*arguments))

        return call

    monkeypatch.setattr(torch, "compile", instead)
    monkeypatch.setattr(compiled, "_TIME_LIMIT", 0.1 if "took" in reason else 60.0)
    with caplog.at_level(logging.INFO, logger="inference.compiled"):
        found = run(num_samples=10)
    assert reason in caplog.text
    assert "WARNING" in caplog.text  # it was asked for
    assert not found.attrs["compiled"]
    expected = run(num_samples=10, compile=False)
    np.testing.assert_array_equal(found.draws["w"], expected.draws["w"])


def test_compilation_pays_for_long_runs_only():
    assert not compiled._pays(200, 8, 10_000)
    assert compiled._pays(200, 8, 200_000)
    assert compiled._pays(2000, 1, 50_000)


def test_a_short_run_is_not_even_traced(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("traced")

    monkeypatch.setattr(compiled, "trace", refuse)
    assert not run(compile="auto").attrs["compiled"]


def test_groups_are_aligned_to_the_number_of_the_step():
    """Whatever steps a block begins and ends with, the same ones run compiled."""
    taken = []

    class Spy:
        def __init__(self, name):
            self.name, self.unroll = name, 4

        def advance(self, state, block):
            taken.append((self.name, block.first, block.num_steps))
            return state, []

    stepper = compiled.CompiledStepper(
        SGHMC(), None, None, Spy("eager"), mode=True, steps={True: 0, False: 100}
    )
    stepper._groups = {False: Spy("compiled")}
    settings = inference.samplers.Settings(0.1, 1.0, warmup=False)
    block = Block(3, [settings] * 11, [True] * 11, torch.zeros(11, 1, 1), None)
    stepper.advance(None, block)
    assert taken == [
        ("eager", 3, 1), ("compiled", 4, 4), ("compiled", 8, 4), ("eager", 12, 2)
    ]  # fmt: skip


def test_bad_modes():
    with pytest.raises(ValueError, match="`compile` must be"):
        run(compile="yes")
