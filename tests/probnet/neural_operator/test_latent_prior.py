"""The latent prior: exact inverse and density, a better fit of flows to a ring."""

import pytest
import torch

from probnet.neural_operator.latent_prior import (
    LatentPrior,
    fit_latent_prior,
    prior_from_options,
)


def _fit(latents, **options):
    settings = {"flow": "nsf", "num_transforms": 2, "hidden": (32,), "num_steps": 400}
    return fit_latent_prior(latents, **{**settings, **options}, seed=0, progress=False)


@pytest.mark.parametrize("flow", ["gaussian", "nsf", "realnvp"])
def test_density_is_that_of_the_map(flow):
    prior, _ = _fit(
        torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), flow=flow, num_steps=5
    )
    base = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = prior.to_latent(base)
    torch.testing.assert_close(prior.to_base(z), base, rtol=1e-6, atol=1e-8)
    for w, latent, log_prob in zip(base, z, prior.log_prob(z), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda b: prior.to_latent(b[None])[0], w)
        expected = -0.5 * (w.square() + torch.tensor(2 * torch.pi).log()).sum()
        expected = expected - torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(log_prob, expected, rtol=1e-6, atol=1e-7)
        assert latent.shape == (3,)


def test_forward_mode_differentiates_the_map():
    """What inversion needs: derivatives along directions, equal to differences."""
    prior, _ = _fit(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), num_steps=5)
    base = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction = torch.ones_like(base)
    _, slope = torch.func.jvp(prior.to_latent, (base,), (direction,))
    step = 1e-6
    difference = (prior.to_latent(base + step) - prior.to_latent(base - step)) / (2 * step)
    torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-6)


def test_a_ring_is_fitted_better_than_by_a_gaussian():
    generator = torch.Generator().manual_seed(0)
    angle = 2 * torch.pi * torch.rand(1000, generator=generator)
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    ring = ring + 0.1 * torch.randn(1000, 2, generator=generator)
    prior, found = _fit(ring, num_steps=250)
    assert found["held_out_log_density"] > found["held_out_log_density_gaussian"] + 0.5
    radius = prior.to_latent(torch.randn(500, 2, generator=generator).double()).norm(dim=-1)
    assert float((radius < 0.5).double().mean()) < 0.1  # a Gaussian of these moments: 0.22
    again = prior_from_options(prior.options())
    again.load_state_dict(prior.state_dict())
    probe = ring[:5].double()
    torch.testing.assert_close(again.double().log_prob(probe), prior.log_prob(probe))


def test_gaussian_prior_is_that_of_the_moments():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.95, 0.1, 0.0], [0.3, -0.5, 0.2]]).double()
    latents = torch.randn(4000, 3, generator=generator).double() @ mixing.T + 0.3
    prior, found = _fit(latents, flow="gaussian")
    truth = torch.distributions.MultivariateNormal(
        torch.full((3,), 0.3).double(), mixing @ mixing.T
    )
    # twice the log likelihood ratio of 9 parameters is chi-squared, over 4000 latents
    excess = truth.log_prob(latents).mean() - prior.log_prob(latents).mean()
    assert abs(float(excess)) < 30 / (2 * 4000)
    assert found["held_out_log_density"] == found["held_out_log_density_gaussian"]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 10 vectors"):
        _fit(torch.zeros(9, 2))
    with pytest.raises(ValueError, match="`flow` must be one of"):
        LatentPrior(3, "maf")
