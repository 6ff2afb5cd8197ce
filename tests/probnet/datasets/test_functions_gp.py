"""Tasks from Gaussian processes: their law, their sizes, their padding, their seeds."""

import math

import gpytorch
import pytest
import scipy.stats
import torch

from probnet.datasets import GPTasks, TaskBatch
from probnet.datasets.functions.covariances import CORRELATIONS, distances

KERNELS = ("rbf", "matern", "periodic", "t_noise")


def gpytorch_gram(name, x, lengthscale, amplitude, period):
    base = {
        "rbf": gpytorch.kernels.RBFKernel,
        "matern": lambda: gpytorch.kernels.MaternKernel(nu=2.5),
        "periodic": gpytorch.kernels.PeriodicKernel,
    }[name]().double()
    # GPyTorch divides sin² by ℓ, these tasks by ℓ²
    base.lengthscale = lengthscale**2 if name == "periodic" else lengthscale
    if name == "periodic":
        base.period_length = period
    return amplitude**2 * base(x).to_dense().detach()


@pytest.mark.parametrize("name", ["rbf", "matern", "periodic"])
def test_the_covariances_are_those_of_gpytorch(name):
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    ours = 0.7**2 * CORRELATIONS[name](
        distances(x, x), torch.tensor(0.3).double(), torch.tensor(0.45).double()
    )
    torch.testing.assert_close(
        ours, gpytorch_gram(name, x, 0.3, 0.7, 0.45), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("name", ["rbf", "matern", "periodic"])
def test_whitened_values_are_standard_normal(name):
    """With the parameters that come with the tasks, L⁻¹y must be white: mean, variance, law."""
    tasks = GPTasks(name, dtype=torch.float64, shared_sizes=True, bucketed=False, seed=1)
    batch = tasks.batch(600, tasks.generator("train"))
    wide = {key: value[:, None, None] for key, value in batch.parameters.items()}
    gram = wide["amplitude"] ** 2 * CORRELATIONS[name](
        distances(batch.x, batch.x), wide["lengthscale"], wide.get("period")
    )
    gram = gram + 0.02**2 * torch.eye(batch.x.shape[1], dtype=torch.float64)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), batch.y, upper=False)
    assert scipy.stats.kstest(white.ravel().numpy(), "norm").pvalue > 0.01
    wrong = torch.linalg.solve_triangular(
        torch.linalg.cholesky(gram * 1.1), batch.y, upper=False
    )
    assert scipy.stats.kstest(wrong.ravel().numpy(), "norm").pvalue < 0.01


def test_parameters_and_inputs_fill_their_intervals():
    tasks = GPTasks("periodic", seed=2)
    batch = tasks.batch(4000, tasks.generator("train"))
    for name, (low, high) in {
        "lengthscale": (0.1, 0.6),
        "amplitude": (0.1, 1.0),
        "period": (0.1, 0.5),
    }.items():
        values = batch.parameters[name].numpy()
        assert scipy.stats.kstest(values, "uniform", (low, high - low)).pvalue > 0.01
    x = batch.xt[batch.mask_t][:, 0].numpy()
    assert scipy.stats.kstest(x, "uniform", (-2, 4)).pvalue > 0.01


def test_sizes_follow_their_law():
    """n ~ U{3..46}; given n, m ~ U{3..49-n}: compared with the exact probabilities."""
    tasks = GPTasks(seed=3)
    n, m = tasks.sizes.draw(40_000, tasks.generator("train"))
    assert (int(n.min()), int(n.max()), int(m.min()), int((n + m).max())) == (3, 46, 3, 49)
    counts = torch.bincount(n)[3:]
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 0.01
    low = m[n == 40] - 3
    assert scipy.stats.chisquare(torch.bincount(low, minlength=7).numpy()).pvalue > 0.01


def test_the_added_noise_is_student_t_times_a_uniform_scale():
    """Same seed, with and without it: the difference over its sd law, by its quantiles."""
    options = {"student_scale": (1.0, 1.0), "dtype": torch.float64, "seed": 4}
    heavy = GPTasks("t_noise", **options)
    plain = GPTasks("rbf", dtype=torch.float64, seed=4)
    a, b = (t.batch(500, t.generator("train")) for t in (heavy, plain))
    torch.testing.assert_close(a.xt, b.xt)
    difference = (a.yt - b.yt)[a.mask_t][:, 0].numpy()
    assert scipy.stats.kstest(difference, "t", (2.1,)).pvalue > 0.01
    assert scipy.stats.kstest(difference, "t", (5.0,)).pvalue < 0.01


@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_is_zero_and_masks_are_prefixes(kernel):
    tasks = GPTasks(kernel, seed=5)
    batch = tasks.batch(7, tasks.generator("train"))
    assert batch.xc.shape[1] in {16, 32, 50}
    assert batch.xt.shape[1] in {16, 32, 50}
    for values, mask in ((batch.xc, batch.mask_c), (batch.yt, batch.mask_t)):
        assert (values[~mask] == 0).all()
        assert (mask.int().diff(dim=1) <= 0).all()
    assert batch.x.dtype == torch.float32


def test_packing_keeps_every_point_and_nothing_else():
    tasks = GPTasks(seed=6)
    batch = tasks.batch(9, tasks.generator("train"))
    packed = batch.packed()
    assert packed.x.shape[1] == int(batch.mask.sum(1).max()) < batch.x.shape[1]
    for i in range(9):
        assert torch.equal(packed.y[i][packed.mask_c[i]], batch.yc[i][batch.mask_c[i]])
        assert torch.equal(packed.x[i][packed.mask_t[i]], batch.xt[i][batch.mask_t[i]])


def test_splits_are_fixed_and_disjoint_and_keep_global_state():
    tasks = GPTasks(seed=7)
    a, b, c = (tasks.split(name, 20) for name in ("valid", "valid", "test"))
    assert torch.equal(a.y, b.y)
    assert not torch.equal(a.xc[:, :3], c.xc[:, :3])
    assert not torch.equal(a.y, GPTasks(seed=8).split("valid", 20).y)
    assert torch.equal(TaskBatch.joined(a.chunks(6)).yt, a.yt)


def test_shared_sizes_need_no_padding():
    tasks = GPTasks(
        shared_sizes=True, bucketed=False, num_context=(10, 10), num_target=(20, 20)
    )
    batch = tasks.batch(5, tasks.generator("train"))
    assert batch.xc.shape == (5, 10, 1)
    assert batch.yt.shape == (5, 20, 1)
    assert batch.mask.all()


def test_float64_is_kept_and_long_lengthscales_are_no_trouble():
    tasks = GPTasks(lengthscale=(5.0, 5.0), noise_sd=0.0, num_context=(40, 46), seed=9)
    batch = tasks.batch(20, tasks.generator("train"))
    assert torch.isfinite(batch.y).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "rbff"}, "`kernel` must be one of .* Did you mean 'rbf'"),
        ({"lengthscale": (0.0, 1.0)}, "`lengthscale` must lie above 0"),
        ({"num_context": (40, 46), "num_target": (10, 20)}, "do not fit into `max_points`"),
        ({"x_range": (2.0, -2.0)}, "`x_range` must be a finite interval"),
        ({"kernel": "periodic", "x_dim": 2}, "`x_dim` must be 1"),
        ({"noise_sd": -0.1}, "`noise_sd`"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GPTasks(**options)


def test_a_batch_checks_its_shapes():
    x, y = torch.zeros(2, 5, 1), torch.zeros(2, 5, 1)
    with pytest.raises(ValueError, match=r"`yt` must have shape \(2, 5, 1\)"):
        TaskBatch.complete(x, y, x, y[:, :4])
    with pytest.raises(TypeError, match="`mask_c` must be boolean"):
        TaskBatch(x, y, x, y, torch.ones(2, 5), torch.ones(2, 5, dtype=torch.bool))
    assert math.isclose(TaskBatch.complete(x, y, x, y).to(torch.float64).x.sum().item(), 0)
