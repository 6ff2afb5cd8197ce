"""Scale mixtures: closed forms, calibration, sequential use, options, files."""

import math
import os

import arviz
import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from scipy import stats

import probnet
from inference import InferenceWarning
from probnet.kernels import NNGPKernel, conv, mlp
from probnet.nngp import (
    BurrXII,
    DensityPrior,
    HalfCauchy,
    InverseGamma,
    PointMass,
    ScaleMixtureGP,
)
from probnet.nngp.solutions import gram

PRIOR = InverseGamma(1.5, 2.5)
CASES = int(os.environ.get("PROBNET_CASES", "400"))


def fixed(kernel, x, y, prior=PRIOR, **options):
    return ScaleMixtureGP(kernel, scale_prior=prior, noise_ratio=0.05, **options).fit(
        x, y, optimize=False
    )


@pytest.mark.parametrize("which", ["kernel", "foreign"])
def test_evidence_and_prediction_are_the_multivariate_t(which, table, request):
    """Every number from SciPy's density of training and test targets together."""
    kernel = request.getfixturevalue(which)
    x, y, x_new, y_new = table
    posterior = fixed(kernel, x, y)
    both = torch.cat([x, x_new])
    c = gram(kernel.double(), both).detach().numpy() + 0.05 * np.eye(31)
    shape = PRIOR.rate / PRIOR.concentration * c
    log_prob = stats.multivariate_t.logpdf
    train = log_prob(y.numpy(), np.zeros(25), shape[:25, :25], df=3.0)
    all_rows = log_prob(torch.cat([y, y_new]).numpy(), np.zeros(31), shape, df=3.0)
    assert posterior.log_evidence == pytest.approx(train, abs=1e-9)
    joint = posterior.predict(x_new, joint=True).log_prob(y_new)
    assert train + float(joint) == pytest.approx(all_rows, abs=1e-8)  # p(y₁)p(y₂|y₁) = p(y₁,y₂)
    one = [*range(25), 27]
    pair = log_prob(np.append(y, y_new[2]), np.zeros(26), shape[np.ix_(one, one)], df=3.0)
    marginal = posterior.predict(x_new).log_prob(y_new)[2]
    assert train + float(marginal) == pytest.approx(pair, abs=1e-8)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("outputs", [0, 2])
@pytest.mark.parametrize("observation", [False, True])
def test_quadrature_agrees_with_the_closed_form(table, kernel, joint, outputs, observation):
    x, y, x_new, y_new = table
    if outputs:
        y, y_new = torch.stack([y, -2 * y], 1), torch.stack([y_new, -2 * y_new], 1)
    laws = [
        fixed(kernel, x, y, prior).predict(x_new, observation=observation, joint=joint)
        for prior in (PRIOR, DensityPrior(PRIOR.log_prob))
    ]
    assert laws[0].batch_shape == laws[1].batch_shape
    target = y_new.T if outputs else y_new
    logs = [law.log_prob(target) for law in laws]
    torch.testing.assert_close(*logs, rtol=0, atol=1e-9)
    torch.testing.assert_close(laws[0].mean, laws[1].mean, rtol=0, atol=1e-9)
    if not joint:
        torch.testing.assert_close(laws[0].variance, laws[1].variance, rtol=1e-8, atol=0)


def test_a_known_scale_is_a_gaussian_process(table, kernel):
    x, y, x_new, _ = table
    law = fixed(kernel, x, y, PointMass(1.7)).predict(x_new)
    c = gram(kernel, x).detach() + 0.05 * torch.eye(25, dtype=torch.float64)
    cross = gram(kernel, x, x_new).detach()
    solved = torch.linalg.solve(c, cross)
    prior = gram(kernel, x_new).detach().diagonal() + 0.05
    torch.testing.assert_close(law.mean, solved.T @ y)
    torch.testing.assert_close(law.variance, 1.7 * (prior - (solved * cross).sum(0)))


@pytest.mark.parametrize("prior", [PRIOR, BurrXII(2.0, 2.0), PointMass(1.0)], ids=repr)
@pytest.mark.parametrize("outputs", [0, 2])
def test_leave_one_out_equals_fitting_without_the_row(table, kernel, prior, outputs):
    x, y, *_ = table
    if outputs:
        y = torch.stack([y, torch.cos(y)], 1)
    found = fixed(kernel, x, y, prior).leave_one_out()
    for row in (0, 13):
        rest = [i for i in range(25) if i != row]
        without = fixed(kernel, x[rest], y[rest], prior)
        law = without.predict(x[row : row + 1])
        torch.testing.assert_close(found.mean[row], law.mean[..., 0], rtol=0, atol=1e-9)
        torch.testing.assert_close(found.variance[row], law.variance[..., 0], rtol=1e-8, atol=0)
        change = fixed(kernel, x, y, prior).log_evidence - without.log_evidence
        assert float(found.log_prob[row]) == pytest.approx(change, abs=1e-8)


@pytest.mark.parametrize("prior", [PRIOR, HalfCauchy()], ids=repr)
def test_conditioning_in_steps_equals_conditioning_at_once(table, kernel, prior):
    x, y, x_new, _ = table
    steps = fixed(kernel, x[:10], y[:10], prior).condition(x[10:], y[10:])
    once = fixed(kernel, x, y, prior)
    assert steps.log_evidence == pytest.approx(once.log_evidence, abs=1e-9)
    torch.testing.assert_close(steps.predict(x_new).mean, once.predict(x_new).mean)


def test_standardising_is_a_change_of_units(table, kernel):
    x, y, x_new, y_new = table
    posterior = fixed(kernel, 10 * x + 3, 7 * y - 100, standardize=True)
    plain = fixed(
        kernel, (x - x.mean(0)) / x.std(0, correction=0), (y - y.mean()) / y.std(correction=0)
    )
    unit = 7 * float(y.std(correction=0))
    assert posterior.log_evidence == pytest.approx(plain.log_evidence - 25 * math.log(unit))
    new = (x_new - x.mean(0)) / x.std(0, correction=0)
    expected = 7 * (plain.predict(new).mean * y.std(correction=0) + y.mean()) - 100
    torch.testing.assert_close(posterior.predict(10 * x_new + 3).mean, expected)
    joint = posterior.predict(10 * x_new + 3, joint=True)
    torch.testing.assert_close(joint.mean, expected)
    log_prob = plain.predict(new).log_prob((y_new - y.mean()) / y.std(correction=0))
    torch.testing.assert_close(
        posterior.predict(10 * x_new + 3).log_prob(7 * y_new - 100), log_prob - math.log(unit)
    )


def test_predictive_is_calibrated_on_data_from_the_model():
    """PIT of held-out values, each with a σ² and training data of its own."""
    kernel, noise = NNGPKernel(mlp(1, "erf")), torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, generator=noise, dtype=torch.float64)
    c = gram(kernel, x).detach() + 0.1 * torch.eye(4, dtype=torch.float64)
    scale = stats.invgamma(1.0, scale=1.0).rvs(CASES, random_state=np.random.default_rng(0))
    z = torch.randn(CASES, 4, generator=noise, dtype=torch.float64)
    y = z @ torch.linalg.cholesky(c).T * torch.from_numpy(scale).sqrt()[:, None]
    pit = {}
    for prior in (InverseGamma(1.0, 1.0), PointMass(1.0)):
        model = ScaleMixtureGP(kernel, scale_prior=prior, noise_ratio=0.1)
        laws = [model.fit(x[:3], row[:3], optimize=False).predict(x[3:]) for row in y]
        pit[prior] = [float(law.cdf(row[3:])) for law, row in zip(laws, y, strict=True)]
    p_values = [stats.kstest(values, "uniform").pvalue for values in pit.values()]
    assert p_values[0] > 0.01
    assert p_values[1] < 1e-3  # the Gaussian process is not


def test_joint_samples_share_one_scale(table, kernel):
    """Whitened squared components of a draw are positively rank-correlated."""
    x, y, x_new, _ = table
    prior, few = InverseGamma(2.0, 2.0), slice(0, 1)
    posterior = fixed(kernel, x[few], y[few], prior)
    law = posterior.predict(x_new[:3], joint=True)
    draws = posterior.sample(4000, x_new[:3], seed=1, joint=True)
    white = torch.linalg.solve_triangular(law.scale_tril, (draws - law.mean).T, upper=False)
    squares = white.square().numpy()
    shared = stats.spearmanr(squares[0], squares[1])
    assert shared.statistic > 5 / 4000**0.5
    apart = posterior.sample(4000, x_new[:3], seed=1)
    lone = ((apart - law.mean) / posterior.predict(x_new[:3]).scale).square().numpy()
    assert abs(stats.spearmanr(lone[:, 0], lone[:, 1]).statistic) < 4 / 4000**0.5


@pytest.mark.parametrize("kind", ["neural", "scaled", "bare"])
def test_evidence_is_stationary_at_the_fit(table, kind):
    x, y, *_ = table
    kernel = {
        "neural": NNGPKernel(mlp(1, "erf"), ard_num_dims=2),
        "scaled": ScaleKernel(RBFKernel(ard_num_dims=2)),
        "bare": RBFKernel(),
    }[kind]
    before = {n: p.detach().clone() for n, p in kernel.named_parameters()}
    posterior = ScaleMixtureGP(kernel).fit(x, y, progress=False)
    assert posterior.diagnostics["converged"]
    assert posterior.diagnostics["num_evaluations"] <= 100
    assert all(torch.equal(before[n], p) for n, p in kernel.named_parameters())
    hyper = posterior._hyper()
    free = [
        b.parameter is not hyper.amplitude for b in hyper.blocks for _ in b.parameter.flatten()
    ]

    def target(vector):
        hyper.assign(vector)
        fitted, ratio = hyper.kernel, float(hyper.noise_ratio.detach())
        evidence = (
            ScaleMixtureGP(fitted, noise_ratio=ratio).fit(x, y, optimize=False).log_evidence
        )
        return evidence + float(hyper.log_prior().detach())

    best, noise = hyper.vector(), torch.Generator().manual_seed(0)
    top = target(best)
    for _ in range(5):
        step = 0.3 * torch.randn(len(best), generator=noise, dtype=torch.float64)
        if kind != "bare":  # a change of the amplitude takes the noise along
            step *= torch.tensor(free)
        assert target(best + step) < top + 0.02


def test_registered_priors_pull_the_fit(table):
    from gpytorch.priors import LogNormalPrior

    x, y, *_ = table
    free = ScaleMixtureGP(RBFKernel()).fit(x, y, progress=False).kernel.lengthscale
    tight = RBFKernel(lengthscale_prior=LogNormalPrior(math.log(5.0), 0.01))
    held = ScaleMixtureGP(tight).fit(x, y, progress=False).kernel.lengthscale
    assert abs(float(held.detach()) - 5.0) < 0.3 < abs(float(free.detach()) - 5.0)


def test_a_search_cut_short_is_reported(table):
    x, y, *_ = table
    with pytest.warns(InferenceWarning, match="stopped after"):
        posterior = ScaleMixtureGP(NNGPKernel(mlp(1))).fit(x, y, max_evaluations=3)
    assert not posterior.diagnostics["converged"]


def test_images_are_accepted():
    noise = torch.Generator().manual_seed(0)
    x = torch.rand(12, 4, 4, 1, generator=noise, dtype=torch.float64)
    y = x.mean((1, 2, 3))
    posterior = fixed(NNGPKernel(conv(1)), x, y)
    flat = fixed(NNGPKernel(conv(1)), x.flatten(1), y)
    assert posterior.log_evidence == pytest.approx(flat.log_evidence)
    with pytest.raises(ValueError, match="`x` must have shape"):
        posterior.predict(x[:, :3])


@pytest.mark.parametrize("prior", [PRIOR, BurrXII(2.0, 1.0)], ids=repr)
@pytest.mark.parametrize("which", ["kernel", "foreign"])
def test_a_file_holds_all_of_a_posterior(table, which, prior, request, tmp_path):
    x, y, x_new, _ = table
    kernel = request.getfixturevalue(which)
    before = fixed(kernel, x, y, prior, standardize=True)
    after = probnet.load(before.save(tmp_path / "saved"))
    assert torch.equal(before.predict(x_new).mean, after.predict(x_new).mean)
    assert before.log_evidence == after.log_evidence
    assert torch.equal(before.sample(3, x_new, seed=2), after.sample(3, x_new, seed=2))


def test_arviz_reads_the_posterior(table, kernel):
    x, y, *_ = table
    posterior = fixed(kernel, x, y)
    found = posterior.to_arviz()
    draws = found.posterior["scale"]
    assert draws.dims == ("chain", "draw")
    error = 5 * float(posterior.scale_posterior.stddev) / 1000**0.5
    assert float(draws.mean()) == pytest.approx(
        float(posterior.scale_posterior.mean), abs=error
    )
    assert found.observed_data["y"].shape == (25,)
    assert found.leave_one_out["log_prob"].shape == (1, 1, 25)
    assert arviz.summary(found, kind="stats").shape[0] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones(5)}, r"`x` must have shape \(n, d\).*Did you mean `x\[:, None\]`"),
        ({"x": np.full((25, 2), np.nan)}, "`x` holds 50 non-finite values"),
        ({"y": np.ones(7)}, "25 rows in `x` and 7 in `y`"),
        ({"y": np.full(25, np.inf)}, "`y` holds 25 non-finite"),
        ({"y": np.ones((25, 2, 2))}, r"`y` must have shape \(n,\) or \(n, outputs\)"),
    ],
)
def test_bad_data_are_named(table, kernel, change, message):
    data = {"x": table[0], "y": table[1], **change}
    with pytest.raises(ValueError, match=message):
        ScaleMixtureGP(kernel).fit(data["x"], data["y"], optimize=False)


def test_bad_options_are_named(table, kernel):
    x, y, *_ = table
    with pytest.raises(ValueError, match="exclude each other"):
        ScaleMixtureGP(kernel, noise_df=4.0, num_inducing=5)
    with pytest.raises(ValueError, match="`noise_ratio` must be a finite number > 0"):
        ScaleMixtureGP(kernel, noise_ratio=0.0)
    with pytest.raises(TypeError, match="`scale_prior` must be one of"):
        ScaleMixtureGP(kernel, scale_prior=1.0)
    with pytest.raises(TypeError, match="takes no option `num_draw`"):
        ScaleMixtureGP(kernel).fit(x, y, method="laplace", num_draw=3)
    with pytest.raises(ValueError, match="`x` must have 2 columns"):
        fixed(NNGPKernel(mlp(1), ard_num_dims=2), x, y).predict(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"`x` must have shape \(2,\)"):
        fixed(kernel, x, y).predict(np.ones((3, 4)))


def test_constant_targets_are_refused_where_they_decide_nothing(table, kernel):
    x, y, x_new, _ = table
    with pytest.raises(ValueError, match=r"`y` is constant.*optimize=False"):
        ScaleMixtureGP(kernel, standardize=True).fit(x, 0 * y + 3)
    with pytest.raises(ValueError, match="`y` is zero everywhere"):
        fixed(kernel, x, 0 * y, HalfCauchy())
    law = fixed(kernel, x, 0 * y + 3, standardize=True).predict(x_new)
    torch.testing.assert_close(law.mean, torch.full((6,), 3.0, dtype=torch.float64))


def test_duplicates_and_zero_rows_are_data_like_others(table):
    x, y, x_new, _ = table
    both = torch.cat([x, x, torch.zeros(2, 2, dtype=torch.float64)])
    targets = torch.cat([y, y, torch.zeros(2, dtype=torch.float64)])
    model = ScaleMixtureGP(NNGPKernel(mlp(3), b_var=0.0), noise_ratio=1e-8)
    law = model.fit(both, targets, optimize=False).predict(x_new)
    assert bool(torch.isfinite(law.log_prob(law.mean)).all())


def test_memory_is_stated_before_it_is_taken(kernel):
    x = torch.zeros(60_000, 1)
    with pytest.raises(MemoryError, match=r"60000 rows needs about 107\.3 GiB.*num_inducing"):
        ScaleMixtureGP(kernel).fit(x, x[:, 0])
