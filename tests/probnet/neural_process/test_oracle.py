"""The oracle against scikit-learn, dense quadrature and the tasks that it is the oracle of."""

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, ExpSineSquared, Matern

from inference.rng import scoped_seed
from probnet.datasets import GPTasks
from probnet.neural_process import oracle
from probnet.neural_process.gaussian import (
    Components,
    Context,
    latent_moments,
    log_evidence,
)
from probnet.neural_process.oracle_noise import student_atoms

KERNELS = {
    "rbf": RBF(0.5),
    "matern": Matern(0.5, nu=2.5),
    "periodic": ExpSineSquared(0.5, 0.3),
}


def context(n=9, m=7, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, (n + m, 1))
    y = np.sin(3 * x) + 0.02 * rng.normal(size=x.shape)
    return x[:n], y[:n], x[n:], y[n:]


@pytest.mark.parametrize("name", KERNELS)
def test_known_hyperparameters_agree_with_scikit_learn(name):
    xc, yc, xt, yt = context()
    kernel = ConstantKernel(0.8**2) * KERNELS[name]
    peer = GaussianProcessRegressor(kernel, alpha=0.02**2, optimizer=None).fit(xc, yc[:, 0])
    mean, cov = peer.predict(xt, return_cov=True)
    noisy = cov + 0.02**2 * np.eye(len(xt))
    period = 0.3 if name == "periodic" else None
    exact = oracle(name, lengthscale=0.5, amplitude=0.8, period=period, noise_sd=0.02)
    posterior = exact.condition(xc, yc)
    law = posterior.predict(xt)
    assert law.mean.shape == (7, 1)
    np.testing.assert_allclose(law.mean[:, 0], mean, atol=1e-7)
    np.testing.assert_allclose(law.variance[:, 0], np.diag(noisy), atol=1e-9)
    latent = posterior.predict(xt, observation=False)
    np.testing.assert_allclose(latent.variance[:, 0], np.diag(cov), atol=1e-9)
    expected = scipy.stats.norm(mean, np.sqrt(np.diag(noisy))).logpdf(yt[:, 0])
    np.testing.assert_allclose(law.log_prob(torch.from_numpy(yt)), expected, atol=1e-5)
    joint = scipy.stats.multivariate_normal(mean, noisy).logpdf(yt[:, 0])
    assert float(law.log_prob(torch.from_numpy(yt), joint=True)) == pytest.approx(
        joint, abs=1e-4
    )
    assert float(posterior.log_evidence) == pytest.approx(
        peer.log_marginal_likelihood(), abs=1e-5
    )


def test_batches_and_masks_change_nothing():
    tasks = GPTasks("matern", seed=1)
    batch = tasks.split("test", 6).to(torch.float64)
    poisoned = torch.where(batch.mask_c[..., None], batch.yc, 1e6)
    far = torch.where(batch.mask_t[..., None], batch.xt, -7.0)
    for integrate in (False, True):
        hyper = {} if integrate else batch.parameters
        law = (
            oracle("matern", **hyper, integrate=integrate, num_grid=5)
            .condition(batch.xc, poisoned, mask=batch.mask_c)
            .predict(far, mask=batch.mask_t)
        )
        for i in range(6):
            c, t = batch.mask_c[i], batch.mask_t[i]
            own = {name: value[i] for name, value in hyper.items()}
            one = (
                oracle("matern", **own, integrate=integrate, num_grid=5)
                .condition(batch.xc[i][c], batch.yc[i][c])
                .predict(batch.xt[i][t])
            )
            torch.testing.assert_close(law.mean[i][t], one.mean)
            torch.testing.assert_close(
                law.log_prob(batch.yt)[i][t], one.log_prob(batch.yt[i][t])
            )
            torch.testing.assert_close(
                law.log_prob(batch.yt, joint=True)[i],
                one.log_prob(batch.yt[i][t], joint=True),
            )
        assert (law.log_prob(batch.yt)[~batch.mask_t] == 0).all()


def test_the_scores_of_its_own_tasks_are_those_published():
    """1.527 and 1.812 nats on 16,000 RBF tasks; here 1000, within four standard errors."""
    batch = GPTasks("rbf", seed=2).split("test", 1000)
    law = (
        oracle("rbf", **batch.parameters)
        .condition(batch.xc, batch.yc, mask=batch.mask_c)
        .predict(batch.xt, mask=batch.mask_t)
    )
    counts = batch.mask_t.sum(-1)
    point = law.log_prob(batch.yt).sum(1) / counts
    joint = law.log_prob(batch.yt, joint=True) / counts
    for scores, published in ((point, 1.527), (joint, 1.812)):
        assert abs(float(scores.mean()) - published) < 4 * float(scores.std()) / 1000**0.5
    z = law.cdf(batch.yt)[batch.mask_t]
    inside = ((z > 0.025) & (z < 0.975)).double().mean()
    assert abs(float(inside) - 0.95) < 0.01
    p = law.cdf(batch.yt).clamp(0.01, 0.99)
    torch.testing.assert_close(law.cdf(law.icdf(p)), p)


def test_the_grid_is_the_posterior_by_dense_quadrature():
    """16 x 16 nodes beside 60 x 60, done here by hand."""
    xc, yc, xt, yt = (torch.from_numpy(v) for v in context(6, 5, seed=3))
    law = oracle("rbf", integrate=True).condition(xc, yc).predict(xt)
    nodes = (torch.arange(60).double() + 0.5) / 60
    grid = torch.cartesian_prod(0.1 + 0.5 * nodes, 0.1 + 0.9 * nodes)
    logs = []
    for joined in ((xc, yc), (torch.cat([xc, xt]), torch.cat([yc, yt]))):
        x, y = joined
        data = Context(x[None], y[None, :, 0], torch.ones(1, len(x), dtype=torch.bool))
        even = torch.zeros(len(grid), 1).double()
        parts = Components(
            grid[:, :1], grid[:, 1:], None, torch.full_like(even, 4e-4)[..., None], even
        )
        logs.append(log_evidence("rbf", parts, data).logsumexp(0))
    assert float(law.log_prob(yt, joint=True)) == pytest.approx(
        float(logs[1] - logs[0]), abs=0.02
    )
    middle = law.icdf(0.5)
    assert torch.allclose(law.cdf(middle), torch.full_like(middle, 0.5), atol=1e-9)


def periodic_by_quadrature(xc, yc, xt):
    """Predictive means on 400 x 12 x 12 midpoints over (p, ℓ, s), for four context points."""
    nodes = [(torch.arange(k).double() + 0.5) / k for k in (12, 12, 400)]
    unit = torch.cartesian_prod(*nodes)
    values = [
        low + (high - low) * unit[:, i : i + 1]
        for i, (low, high) in enumerate([(0.1, 0.6), (0.1, 1.0), (0.1, 0.5)])
    ]
    data = Context(xc[None], yc[None, :, 0], torch.ones(1, len(xc), dtype=torch.bool))
    even = torch.zeros(len(unit), 1).double()
    parts = Components(*values, torch.full_like(even, 0.1**2)[..., None], even)
    weights = log_evidence("periodic", parts, data)

    mean, variance = latent_moments("periodic", parts, data, xt[None], full=False)
    w = weights.softmax(0)[..., None]
    centre = (w * mean).sum(0)
    return centre[0], (w * (variance + (mean - centre) ** 2)).sum(0)[0], weights.logsumexp(0)


def test_particles_agree_with_quadrature_for_a_period():
    """Little data and noise 0.1, so that quadrature can see every mode."""
    rng = torch.Generator().manual_seed(4)
    xc = torch.tensor([[-1.0], [-0.7], [0.1], [0.35]]).double()
    yc = 0.6 * torch.randn((4, 1), generator=rng).double()
    xt = torch.linspace(-1.2, 0.6, 7).double()[:, None]
    mean, variance, _ = periodic_by_quadrature(xc, yc, xt)
    law = oracle("periodic", integrate=True, noise_sd=0.1, num_particles=2000).condition(xc, yc)
    ours = law.predict(xt, observation=False)
    error = 5 * variance.sqrt() / 2000**0.5
    assert ((ours.mean[:, 0] - mean).abs() < error).all()
    torch.testing.assert_close(ours.stddev[:, 0], variance.sqrt(), rtol=0.06, atol=0)


def test_heavy_noise_has_the_law_of_the_tasks():
    """Quantiles of the atoms' mixture against those of simulated noise."""
    atoms = student_atoms(0.02, 2.1, (0.0, 0.15), 96)
    rng = np.random.default_rng(5)
    c, t = rng.uniform(0, 0.15, 200_000), rng.standard_t(2.1, 200_000)
    noise = 0.02 * rng.normal(size=200_000) + c * t
    for level in (0.6, 0.75, 0.9, 0.99, 0.999):
        at = np.quantile(noise, level)
        mixed = torch.special.ndtr(at / atoms.variances.sqrt()) @ atoms.log_weights.exp()
        assert float(mixed) == pytest.approx(
            level, abs=5 * (level * (1 - level) / 200_000) ** 0.5
        )


def test_gibbs_agrees_with_importance_sampling_for_one_outlier():
    """Three points, hyper-parameters known: weights over prior draws of the noise variances."""
    xc = torch.tensor([[0.0], [0.1], [0.2]]).double()
    yc = torch.tensor([[0.3], [0.9], [0.35]]).double()
    xt = torch.tensor([[0.1], [0.6]]).double()
    law = oracle("t_noise", lengthscale=0.5, amplitude=0.8).condition(xc, yc)
    ours = law.predict(xt, observation=False)
    atoms = student_atoms(0.02, 2.1, (0.0, 0.15), 96)
    rng = torch.Generator().manual_seed(6)
    picked = torch.multinomial(atoms.log_weights.exp(), 3 * 40_000, True, generator=rng)
    noise = atoms.variances[picked].reshape(40_000, 1, 3)
    even = torch.zeros(40_000, 1).double()
    parts = Components(even + 0.5, even + 0.8, None, noise, even)
    data = Context(xc[None], yc[None, :, 0], torch.ones(1, 3, dtype=torch.bool))

    w = log_evidence("t_noise", parts, data).softmax(0)[..., None]
    mean, variance = latent_moments("t_noise", parts, data, xt[None], full=False)
    centre = (w * mean).sum(0)
    total = (w * (variance + (mean - centre) ** 2)).sum(0)[0]
    assert ((ours.mean[:, 0] - centre[0]).abs() < 5 * total.sqrt() / 200**0.5).all()
    torch.testing.assert_close(ours.stddev[:, 0], total.sqrt(), rtol=0.3, atol=0)
    plain = oracle("rbf", lengthscale=0.5, amplitude=0.8).condition(xc, yc).predict(xt)
    assert float(plain.mean[0]) > float(ours.mean[0]) + 0.1  # it follows the outlier
    with pytest.raises(NotImplementedError, match="no closed form"):
        law.predict(xt).log_prob(yc[:2], joint=True)


def test_samples_have_the_joint_law():
    xc, yc, xt, _ = (torch.from_numpy(v) for v in context(4, 3, seed=7))
    for options in ({"lengthscale": 0.5, "amplitude": 0.8}, {"integrate": True}):
        law = oracle("rbf", **options).condition(xc, yc).predict(xt)
        with scoped_seed(0):
            draws = law.sample((4000,))
        assert draws.shape == (4000, 3, 1)
        error = (draws.mean(0) - law.mean).abs()
        assert (error < 5 * law.stddev / 4000**0.5).all()
        torch.testing.assert_close(draws.std(0), law.stddev, rtol=0.1, atol=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amplitude": 0.8}, "`lengthscale` must be a number.*integrate=True"),
        ({"lengthscale": 0.5, "amplitude": 0.8, "period": 0.2}, "`period` is of the periodic"),
        ({"lengthscale": 0.5, "integrate": True}, "must be an interval"),
        ({"lengthscale": -0.5, "amplitude": 0.8}, "`lengthscale` must be > 0"),
        ({"kernel": "rbg", "lengthscale": 0.5, "amplitude": 0.8}, "`kernel` must be one of"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        oracle(**options)


def test_bad_contexts_are_named():
    exact = oracle(lengthscale=0.5, amplitude=0.8)
    x, y = torch.zeros(4, 1), torch.zeros(4, 1)
    with pytest.raises(ValueError, match="`yc` must have shape"):
        exact.condition(x, y[:3])
    with pytest.raises(ValueError, match="`xc` holds"):
        exact.condition(x * torch.nan, y)
    with pytest.raises(ValueError, match="`xt` must have shape"):
        exact.condition(x, y).predict(torch.zeros(2, 3))


def test_moments_of_functions_are_those_of_draws():
    xc = torch.tensor([[[-1.0], [0.5]], [[0.0], [1.5]]], dtype=torch.float64)
    yc = torch.tensor([[[0.3], [-0.2]], [[0.9], [0.1]]], dtype=torch.float64)
    x = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None].expand(2, 6, 1)
    exact = oracle("rbf", integrate=True, num_grid=4).condition(xc, yc)
    mean, covariance = exact.moments(x)
    law = exact.predict(x, observation=False)
    torch.testing.assert_close(mean, law.mean[..., 0])
    torch.testing.assert_close(covariance.diagonal(dim1=-2, dim2=-1), law.variance[..., 0])
    with scoped_seed(0):
        draws = law.sample((20_000,))[..., 0]
    centred = draws - mean
    found = torch.einsum("sbi,sbj->bij", centred, centred) / len(draws)
    torch.testing.assert_close(found, covariance, rtol=0.0, atol=0.03)  # five errors
