import json

import pytest
import torch
from torch.distributions import Normal

from inference import InferenceWarning
from inference.rng import scoped_seed
from probnet.datasets import GPTasks, TaskBatch
from probnet.neural_process import oracle
from probnet.neural_process.function_distance import function_distances


def tasks(num_tasks=12):
    return GPTasks(kernel="rbf", seed=0).split("test", num_tasks)


class Known:
    """An 'exact' predictive that is N(0, 1) at every target."""

    def condition(self, xc, yc, *, mask):
        return self

    def predict(self, xt, *, mask):
        self.mask = mask
        return self

    def log_prob(self, y, *, joint=False):
        logs = Normal(0.0, 1.0).log_prob(y)[..., 0] * self.mask
        return logs.sum(-1) if joint else logs


@pytest.mark.parametrize("name", ["CNP", "NP", "MPNP", "MPANP"])
def test_scores_are_those_of_every_task_by_itself(name, small, pretend):
    trained, batch = pretend(small(name)), tasks()
    found = trained.evaluate(batch, num_functions=8, batch_size=5, seed=2)
    for i in range(batch.num_tasks):
        c, t = batch.mask_c[i], batch.mask_t[i]
        posterior = trained.condition(batch.xc[i][c], batch.yc[i][c])
        law = posterior.predict(batch.xt[i][t], num_functions=8, seed=2)
        y = batch.yt[i][t].double()
        expected = float(law.log_prob(y).mean())
        assert float(found.per_task["target_pointwise"][i]) == pytest.approx(expected, abs=1e-4)
        if name != "CNP":
            joint = float(law.log_prob(y, joint=True)) / int(t.sum())
            assert float(found.per_task["target_joint"][i]) == pytest.approx(joint, abs=1e-4)
    n, m = batch.mask_c.sum(-1), batch.mask_t.sum(-1)
    scores = found.per_task
    task = (n * scores["context_pointwise"] + m * scores["target_pointwise"]) / (n + m)
    torch.testing.assert_close(scores["task_pointwise"], task)
    assert found.scores["task_pointwise"] == pytest.approx(float(task.mean()))
    assert found.standard_errors["task_pointwise"] == pytest.approx(
        float(task.std()) / batch.num_tasks**0.5
    )
    assert ("target_joint" in scores) == (name != "CNP")
    assert (found.martingale_defect is None) == (name in {"CNP", "NP"})
    json.dumps(found.to_dict())


@pytest.mark.parametrize("likelihood", ["gaussian", "student_t", "mixture"])
def test_calibration_of_data_drawn_from_the_model(likelihood, small, pretend):
    """Targets drawn from the predictions themselves are calibrated."""
    trained = pretend(small("MPNP", likelihood=likelihood))
    stream = torch.Generator().manual_seed(0)
    xc, yc = torch.rand(40, 3, 1, generator=stream), torch.randn(40, 3, 1, generator=stream)
    xt = torch.rand(40, 50, 1, generator=stream)
    posterior = trained.condition(xc, yc)
    # One draw per point, since points of one function are dependent.
    y = torch.cat(
        [posterior.sample(1, xt[:, j : j + 1], seed=j)[0] for j in range(50)], dim=1
    ).float()
    found = trained.evaluate(TaskBatch.complete(xc, yc, xt, y), num_functions=50)
    for level, share in found.coverage.items():
        assert abs(share - level) < 5 * (level * (1 - level) / 2000) ** 0.5
    assert found.pit_ks < 1.95 / 2000**0.5  # the 0.1 % point of Kolmogorov's law


def test_oracle_gaps_are_paired(small, pretend):
    batch = tasks()
    found = pretend(small("MPNP")).evaluate(
        batch, oracle=Known(), num_functions=8, batch_size=5
    )
    scores = found.per_task
    for kind in ("pointwise", "joint"):
        torch.testing.assert_close(
            scores[f"gap_{kind}"], scores[f"oracle_{kind}"] - scores[f"target_{kind}"]
        )
    torch.testing.assert_close(scores["oracle_pointwise"], scores["oracle_joint"])
    logs = Normal(0.0, 1.0).log_prob(batch.yt.double())[..., 0]
    expected = (logs * batch.mask_t).sum(-1) / batch.mask_t.sum(-1)
    torch.testing.assert_close(scores["oracle_pointwise"], expected)


def test_the_exact_predictive_is_scored_at_valid_targets_only(small, pretend):
    """Every task by itself, without padding, against the scores of the padded batch."""
    batch, exact = tasks(4), oracle("rbf", integrate=True, num_grid=3)
    found = pretend(small("MPNP")).evaluate(batch, oracle=exact, num_functions=8).per_task
    for i in range(4):
        c, t = batch.mask_c[i], batch.mask_t[i]
        law = exact.condition(batch.xc[i][c], batch.yc[i][c]).predict(batch.xt[i][t])
        y = batch.yt[i][t].double()
        pointwise, joint = law.log_prob(y).mean(), law.log_prob(y, joint=True) / len(y)
        torch.testing.assert_close(found["oracle_pointwise"][i], pointwise)
        torch.testing.assert_close(found["oracle_joint"][i], joint)


def test_a_collapsed_generator_is_noticed(small, pretend):
    model = small("MPNP")
    assert not pretend(model).evaluate(tasks()).collapsed
    with torch.no_grad():
        model.pseudo.attention.query.weight.zero_()
    with pytest.warns(InferenceWarning, match="The generator has collapsed"):
        found = pretend(model).evaluate(tasks())
    assert found.collapsed
    assert found.function_share < 1e-3


def test_no_density_exceeds_the_floor(small, pretend):
    """Targets put at the predicted mean reach the cap of a floored model, and no more."""
    model = small("CNP", min_scale=0.1)
    with torch.no_grad():
        model.decoder.rest[-1].bias[1] = -30.0
    batch = tasks()
    posterior = pretend(model).condition(batch.xc, batch.yc, mask=batch.mask_c)
    mean = posterior.predict(batch.xt).mean.float()
    perfect = TaskBatch(batch.xc, batch.yc, batch.xt, mean, batch.mask_c, batch.mask_t)
    best = pretend(model).evaluate(perfect).scores["target_pointwise"]
    assert best == pytest.approx(1.38364, abs=1e-3)
    assert best <= 1.383647


def test_a_stream_stands_for_its_test_split(small, pretend):
    trained = pretend(small("CNP"))
    first = trained.evaluate(GPTasks(kernel="rbf", seed=0), num_tasks=12)
    assert first.scores == trained.evaluate(tasks()).scores
    with pytest.raises(TypeError, match="must be a batch or a stream"):
        trained.evaluate((torch.zeros(3, 1), torch.zeros(3, 1)))


class FromOracle:
    """A 'process' whose functions are exact, from another stream of the generator."""

    def __init__(self, exact, scale=1.0):
        self.exact, self.scale = exact, scale

    def sample_functions(self, x, n, *, seed):
        law = self.exact.predict(x.expand(2, *x.shape), observation=False)
        with scoped_seed(seed + 1):
            draws = law.sample((n,))
        return law.mean + self.scale * (draws - law.mean)


def test_distance_of_functions_from_the_exact_posterior():
    xc = torch.tensor([[[-1.0], [0.5]], [[0.0], [1.5]]], dtype=torch.float64)
    yc = torch.tensor([[[0.3], [-0.2]], [[0.9], [0.1]]], dtype=torch.float64)
    exact = oracle("rbf", lengthscale=0.5, amplitude=0.8).condition(xc, yc)
    x = torch.linspace(-2, 2, 50, dtype=torch.float64)[:, None]
    right = function_distances(FromOracle(exact), exact, x, seed=3)
    # 200 functions miss the moments by about 1/sqrt(200) of the sd, at most 0.8
    for distance in right.values():
        assert bool((distance < 0.12).all())
    # N(m, K) and N(m, K/4) are tr(K)/4 apart
    narrow = function_distances(FromOracle(exact, 0.5), exact, x, seed=3)["function_w2"]
    variance = exact.predict(x.expand(2, 50, 1), observation=False).variance[..., 0]
    torch.testing.assert_close(narrow, (variance.mean(-1) / 4).sqrt(), rtol=0.15, atol=0.0)


def test_evaluation_with_an_oracle_has_the_distance_of_functions(small, pretend):
    exact = oracle("rbf", integrate=True, num_grid=4)
    found = pretend(small("MPNP")).evaluate(tasks(4), oracle=exact, num_functions=8)
    assert found.scores["function_w2"] > 2 * found.scores["function_w2_exact"] > 0
