"""Trained-network limits against trained finite networks and their defining properties."""

import pytest
import torch

import probnet
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import BurrXII, InverseGamma, PointMass, ScaleMixtureGP, TrainedNetworkLimit
from probnet.predictive import StudentT


@pytest.mark.parametrize("train", ["last", "all"])
def test_it_interpolates_and_keeps_the_priors_degrees(table, kernel, train):
    x, y, x_new, _ = table
    limit = TrainedNetworkLimit(kernel, InverseGamma(2.5, 1.0), train=train).condition(x, y)
    law = limit.predict(x)
    torch.testing.assert_close(law.mean, y, rtol=0, atol=1e-6)
    assert float(law.scale.max()) < 1e-3
    new = limit.predict(x_new)
    assert isinstance(new, StudentT)
    assert float(new.df[0]) == 5.0  # 2α, not 2α + n
    heavy = TrainedNetworkLimit(kernel, InverseGamma(0.8, 1.0), train=train).condition(x, y)
    assert bool(torch.isinf(heavy.sd(x_new)).all())


def test_last_layer_is_the_posterior_without_noise(table, kernel):
    x, y, x_new, _ = table
    limit = TrainedNetworkLimit(kernel, PointMass(1.3), train="last").condition(x, y)
    bayes = ScaleMixtureGP(kernel, scale_prior=PointMass(1.3), noise_ratio=1e-10)
    exact = bayes.fit(x, y, optimize=False).predict(x_new, observation=False)
    law = limit.predict(x_new)
    torch.testing.assert_close(law.mean, exact.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(law.stddev, exact.stddev, rtol=0, atol=1e-4)


def test_all_layers_equal_networks_trained_by_linearised_flow():
    """f(x*) - A f(x) + A y over random networks, with A from the tangent kernel."""
    width, count, noise = 256, 300, torch.Generator().manual_seed(0)
    x = torch.tensor([[-1.0], [0.2], [1.1]], dtype=torch.float64)
    new, y = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([0.3, -0.5, 1.0]).double()
    kernel = NNGPKernel(mlp(2, "erf"), w_var=1.5, b_var=0.3)
    tangent = kernel.tangent_kernel()
    a = torch.linalg.solve(tangent(x).to_dense(), tangent(x, new).to_dense()).detach()
    h = torch.cat([x, new]).expand(count, 4, 1)
    for fan_in in (1, width):
        w = torch.randn(count, fan_in, width, generator=noise, dtype=torch.float64)
        b = torch.randn(count, 1, width, generator=noise, dtype=torch.float64)
        h = torch.erf((1.5 / fan_in) ** 0.5 * h @ w + 0.3**0.5 * b)
    f = (h @ torch.randn(count, width, 1, generator=noise, dtype=torch.float64))[
        ..., 0
    ] / width**0.5
    trained = f[:, 3] + (y - f[:, :3]) @ a[:, 0]
    law = TrainedNetworkLimit(kernel, PointMass(1.0), train="all").condition(x, y).predict(new)
    sd = float(law.stddev)
    assert float(trained.mean()) == pytest.approx(float(law.mean), abs=4 * sd / count**0.5)
    assert float(trained.std()) == pytest.approx(sd, rel=4 / (2 * count) ** 0.5)


def test_verbs(table, kernel, tmp_path):
    x, y, x_new, _ = table
    before = TrainedNetworkLimit(kernel, BurrXII(2.0, 2.0), standardize=True).condition(x, y)
    after = probnet.load(before.save(tmp_path / "f"))
    assert torch.equal(before.mean(x_new), after.mean(x_new))
    assert before.sample(3, x_new, joint=True).shape == (3, 6)
    assert before.to_arviz().posterior["scale"].shape == (1, 1000)
    with pytest.raises(ValueError, match="has no noise model"):
        before.predict(x_new, observation=True)
    with pytest.raises(TypeError, match="`kernel` must be an NNGPKernel"):
        TrainedNetworkLimit("relu", PointMass(1.0))
    duplicated = torch.cat([x, x])
    limit = TrainedNetworkLimit(kernel, PointMass(1.0)).condition(duplicated, torch.cat([y, y]))
    assert torch.isfinite(
        limit.mean(x_new)
    ).all()  # jitter lets equal rows with equal targets pass
