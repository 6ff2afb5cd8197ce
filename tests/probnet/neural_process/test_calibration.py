"""Factors of the uncertainty, recovered from tasks whose law is the scaled one."""

from dataclasses import replace

import pytest
import torch

import probnet
from inference.rng import scoped_seed
from probnet.datasets import GPTasks, TaskBatch
from probnet.neural_process import Autoregressive
from probnet.neural_process.calibration import Calibration

TRUTH = Calibration(base=1.5, noise=0.6, functions=1.8)


def drawn(law):
    """One draw of every task, each from a function of its own."""
    tasks = range(law.batch_shape[0])
    with scoped_seed(1):
        return law.sample((len(tasks),))[tasks, tasks].float()


def contexts(num_tasks, num_targets):
    stream = torch.Generator().manual_seed(0)
    xc, yc = (torch.randn(num_tasks, 4, 1, generator=stream) for _ in range(2))
    return xc.clamp(-2, 2), yc, 4 * torch.rand(num_tasks, num_targets, 1, generator=stream) - 2


@pytest.mark.parametrize("likelihood", ["gaussian", "student_t", "mixture"])
def test_factors_are_those_of_the_tasks(likelihood, small, pretend):
    trained = pretend(small("MPNP", likelihood=likelihood))
    scaled = replace(trained, calibration=TRUTH)
    xc, yc, xt = contexts(150, 20)
    posterior = scaled.condition(xc, yc)
    y = drawn(posterior.predict(xt, num_functions=50))
    found = trained.calibrate(TaskBatch.complete(xc, yc, xt, y), num_functions=50).calibration
    # 3000 targets determine a scale to about 1.5 %; functions hardly spread in random networks
    assert found.noise == pytest.approx(TRUTH.noise, rel=0.08)
    base = drawn(posterior.base(xt))
    again = trained.calibrate(TaskBatch.complete(xc, yc, xt, base), num_functions=5)
    assert again.calibration.base == pytest.approx(TRUTH.base, rel=0.08)
    right = trained.calibrate(
        TaskBatch.complete(xc, yc, xt, drawn(trained.condition(xc, yc).base(xt)))
    )
    assert right.calibration.base == pytest.approx(1, rel=0.08)


def test_spread_of_functions_is_recovered(small, pretend):
    model = small("MPNP", min_scale=0.0)
    xc, yc, xt = contexts(600, 10)
    spread = pretend(model).condition(xc, yc).sample_functions(xt, 50).std(0).mean()
    with torch.no_grad():  # as much noise as there is between functions
        model.decoder.rest[-1].bias[1] = spread.expm1().log()
    trained = pretend(model)
    law = replace(trained, calibration=TRUTH).condition(xc, yc).predict(xt, num_functions=50)
    tasks = TaskBatch.complete(xc, yc, xt, drawn(law))
    found = trained.calibrate(tasks, num_functions=50).calibration
    assert found.functions == pytest.approx(TRUTH.functions, rel=0.1)


def test_what_the_factors_scale(small, pretend):
    trained = pretend(small("MPNP"))
    scaled = replace(trained, calibration=TRUTH)
    xc, yc, xt = contexts(3, 7)
    plain, other = trained.condition(xc, yc), scaled.condition(xc, yc)
    torch.testing.assert_close(other.base(xt).mean, plain.base(xt).mean)
    torch.testing.assert_close(other.base(xt).stddev, 1.5 * plain.base(xt).stddev)
    laws, scaled_laws = plain.function_laws(xt), other.function_laws(xt)
    torch.testing.assert_close(scaled_laws.scale, 0.6 * laws.scale)
    base = plain.base(xt).mean
    torch.testing.assert_close(scaled_laws.loc - base, 1.8 * (laws.loc - base))
    more = other.sample_functions(xt, 9, seed=2)
    torch.testing.assert_close(more[:4], other.sample_functions(xt, 4, seed=2))
    one_point, y = xt[:, :1], torch.zeros(3, 1, 1)
    torch.testing.assert_close(
        Autoregressive(other).log_prob(one_point, y),
        other.base(one_point).log_prob(y.double())[:, 0],
        rtol=1e-5,
        atol=1e-5,
    )
    rule = scaled.as_rule()
    state = rule.start(xc[0].double(), yc[0].double(), 1)
    ahead = rule.predict(state, xt[:1, :1].double())
    torch.testing.assert_close(ahead.stddev[0], other.base(xt).stddev[0, :1])


@pytest.mark.parametrize("name", ["CNP", "NP"])
def test_models_without_functions_or_without_a_base(name, small, pretend, tmp_path):
    trained = pretend(small(name))
    stream = GPTasks(kernel="rbf", seed=0)
    found = trained.calibrate(stream, num_tasks=32, num_functions=8)
    tasks = stream.split("valid", 32)
    before, after = (t.evaluate(tasks, num_functions=8).scores for t in (trained, found))
    assert after["target_pointwise"] > before["target_pointwise"]
    assert found.calibration.functions == 1
    assert (found.calibration.base == 1) == (name == "NP")
    found.save(tmp_path / "process.probnet")
    assert probnet.load(tmp_path / "process.probnet").calibration == found.calibration
    with pytest.raises(TypeError, match="must be a batch or a stream"):
        trained.calibrate([1.0])
