"""The collapsed bound: exact at M = n, below the evidence otherwise, for every prior."""

import pytest
import torch
from linear_operator.utils.linear_cg import linear_cg

import probnet
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import BurrXII, HalfCauchy, InverseGamma, ScaleMixtureGP
from probnet.nngp.conjugate_gradients import solve_by_cg
from probnet.nngp.solutions import gram
from probnet.nngp.sparse import choose_inducing, sparse_terms

PRIORS = [InverseGamma(2.0, 2.0), BurrXII(2.0, 2.0), HalfCauchy()]


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_bound_is_exact_with_all_points_and_below_with_fewer(table, kernel, prior):
    x, y, x_new, _ = table
    options = {"scale_prior": prior, "noise_ratio": 0.05}
    exact = ScaleMixtureGP(kernel, **options).fit(x, y, optimize=False)
    bounds = []
    for size in (3, 10, 25):
        model = ScaleMixtureGP(kernel, num_inducing=size, **options)
        sparse = model.fit(x, y, optimize=False)
        bounds.append(sparse.log_evidence)
    assert bounds[0] < bounds[1] < exact.log_evidence
    assert bounds[2] == pytest.approx(exact.log_evidence, abs=1e-6)
    for joint in (False, True):
        laws = [p.predict(x_new, joint=joint) for p in (exact, sparse)]
        torch.testing.assert_close(laws[0].mean, laws[1].mean, rtol=0, atol=1e-6)
        logs = [law.log_prob(laws[0].mean) for law in laws]
        torch.testing.assert_close(*logs, rtol=0, atol=1e-5)


def test_several_outputs_share_the_bound(table, kernel):
    x, y, x_new, _ = table
    both = torch.stack([y, y.cos()], 1)
    exact = ScaleMixtureGP(kernel, noise_ratio=0.05).fit(x, both, optimize=False)
    sparse = ScaleMixtureGP(kernel, noise_ratio=0.05, num_inducing=25).fit(
        x, both, optimize=False
    )
    assert sparse.log_evidence == pytest.approx(exact.log_evidence, abs=1e-6)
    assert sparse.predict(x_new).mean.shape == (2, 6)
    fewer = ScaleMixtureGP(kernel, noise_ratio=0.05, num_inducing=4).fit(
        x, both, optimize=False
    )
    assert fewer.log_evidence < exact.log_evidence


def test_terms_have_right_gradients(table):
    x, y, *_ = table
    kernel = NNGPKernel(mlp(1))

    def penalised(raw):
        kernel.raw_w_var.data = raw.detach()
        terms = sparse_terms(kernel, x, y[:, None], x[:5], torch.tensor(0.1).double())
        return terms.quadratic - terms.log_det + terms.penalty

    raw = kernel.raw_w_var.detach().clone()
    (gradient,) = torch.autograd.grad(penalised(raw), kernel.raw_w_var)
    step = 1e-5
    difference = (penalised(raw + step) - penalised(raw - step)).detach() / (2 * step)
    torch.testing.assert_close(gradient[0], difference, rtol=1e-6, atol=1e-6)


def test_inducing_points_are_distinct_and_fitted(table, tmp_path):
    x, y, x_new, _ = table
    twice = torch.cat([x, x])
    assert len(choose_inducing(NNGPKernel(mlp(1)), twice, 40)) <= 25
    model = ScaleMixtureGP(NNGPKernel(mlp(1)), num_inducing=8)
    before = model.fit(twice, torch.cat([y, y]), progress=False)
    assert before.diagnostics["num_evaluations"] > 1
    after = probnet.load(before.save(tmp_path / "f"))
    assert torch.equal(before.predict(x_new).mean, after.predict(x_new).mean)
    with pytest.raises(ValueError, match="closed form only for exact"):
        before.leave_one_out()
    with pytest.raises(ValueError, match="`condition` is exact only"):
        before.condition(x, y)


@pytest.mark.parametrize("rank", [0, 15])
def test_conjugate_gradients_agree_with_cholesky(table, kernel, rank):
    x, y, *_ = table
    found = solve_by_cg(kernel, x, y[:, None], torch.tensor(0.05).double(), rank=rank)
    c = gram(kernel, x).detach() + 0.05 * torch.eye(25, dtype=torch.float64)
    torch.testing.assert_close(
        found.weights, torch.linalg.solve(c, y[:, None]), rtol=0, atol=1e-6
    )
    assert float(found.quadratic) == pytest.approx(
        float(y @ torch.linalg.solve(c, y)), rel=1e-8
    )
    if rank:
        plain = solve_by_cg(kernel, x, y[:, None], torch.tensor(0.05).double(), rank=0)
        assert found.num_iterations < plain.num_iterations
    assert callable(linear_cg)
