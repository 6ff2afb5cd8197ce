"""A trained operator: laws, decoders, prior, files."""

import pytest
import torch

import probnet
from probnet.datasets.fields import LevelSetGRF

MEDIA = LevelSetGRF(num_nodes=9)


@pytest.fixture(scope="module")
def trained(small_model):
    return small_model().fit(
        MEDIA, num_steps=60, batch_size=16, num_validation=20, progress=False
    )


@pytest.fixture(scope="module")
def media():
    return MEDIA.sample(6, seed=7)


POINTS = torch.tensor([[0.3, 0.4], [0.51, 0.77], [0.0, 0.5]], dtype=torch.float64)


def test_predictions_are_mixtures_about_the_networks_solution(trained, media):
    law = trained.predict(media, POINTS)
    assert law.batch_shape == (6, 3)
    latents = trained.encode(media).mean
    coefficients = trained.problem.coefficients(media)
    at_mean = trained._solution(latents, coefficients, POINTS)
    # Antithetic draws: what is left is of second order in the encoder's scale.
    torch.testing.assert_close(law.mean, at_mean, rtol=0.02, atol=2e-4)
    assert not law.mean[:, 2].any()  # on the boundary
    network = trained.predict(media, POINTS, observation=False)
    torch.testing.assert_close(network.mean, law.mean)
    assert (network.variance[:, :2] < law.variance[:, :2]).all()
    samples = trained.sample(500, media.reshape(2, 3, 9, 9))
    assert samples.shape == (500, 2, 3, 81)
    assert torch.equal(samples, trained.sample(500, media.reshape(2, 3, 9, 9)))


def test_error_bars_are_the_errors_on_validation_inputs(trained):
    pde, inputs = trained.problem, trained.validation
    exact = pde.solve(pde.coefficients(inputs)).flatten(1)
    errors = trained.predict(inputs).mean - exact
    sd = trained.error.scale(pde, pde.nodes)
    torch.testing.assert_close(sd, errors.square().mean(0).sqrt(), rtol=1e-6, atol=1e-9)


def test_joint_law_has_the_marginals_and_the_correlations_of_errors(trained, media):
    joint, marginal = (trained.predict(media[:1], POINTS[:2], joint=j) for j in (True, False))
    assert (joint.batch_shape, joint.event_shape) == ((1,), (2,))
    torch.testing.assert_close(joint.variance, marginal.variance, rtol=1e-6, atol=1e-12)
    components = joint.components.covariance_matrix[0, 0]
    modes, rest = trained.error.at(trained.problem, POINTS[:2])
    torch.testing.assert_close(components, modes.T @ modes + rest.diag(), rtol=1e-6, atol=1e-10)
    assert abs(float(components[0, 1])) > 0.1 * float(components.diagonal().prod().sqrt())


def test_readout_and_coefficients_give_the_decoded_solution(trained):
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = trained.decode_solution(z, POINTS)
    torch.testing.assert_close(trained.readout(POINTS)(trained.coefficients(z)), expected)
    nodes = trained.decode_solution(z)
    torch.testing.assert_close(
        trained.problem.interpolate(nodes.reshape(5, 9, 9), trained.problem.nodes), nodes
    )
    grown = z.clone().requires_grad_()
    trained.decode_solution(grown, POINTS).sum().backward()
    assert grown.grad.abs().sum() > 0


def test_decoded_inputs_are_media(trained):
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = trained.decode_input(z)
    assert set(a.unique().tolist()) <= {5.0, 10.0}
    assert torch.equal(a > 7, trained.phase_logits(z) > 0)


def test_a_saved_operator_predicts_the_same(trained, media, tmp_path):
    with_prior = trained.fit_prior(num_transforms=1, hidden=(8,), num_steps=10, progress=False)
    for operator in (trained, with_prior):
        loaded = probnet.load(operator.save(tmp_path / "operator.probnet"))
        assert torch.equal(loaded.predict(media).mean, operator.predict(media).mean)
        base = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()
        torch.testing.assert_close(loaded.to_latent(base), operator.to_latent(base))
        torch.testing.assert_close(
            loaded.predict(media).stddev, operator.predict(media).stddev, rtol=1e-5, atol=1e-9
        )
        assert loaded.diagnostics == operator.diagnostics
    with pytest.raises(ValueError, match="latents of training were not kept"):
        with_prior.fit_prior(progress=False)


def test_prior_draws(trained):
    draws = trained.sample_prior(7, seed=1)
    assert draws["z"].shape == (7, 4)
    assert draws["a"].shape == (7, 9, 9)
    assert draws["u"].shape == (7, 81)
    assert torch.equal(draws["a"], trained.decode_input(draws["z"]))
    found = trained.check_prior(MEDIA.sample(50, seed=3), num_samples=50)
    assert 0 <= found["volume_fraction_prior"] <= 1
    assert found["volume_fraction_data"] == pytest.approx(0.5, abs=0.1)


def test_score_and_tree(trained, media):
    pde = trained.problem
    exact = pde.solve(pde.coefficients(media))
    assert trained.score(media) == pytest.approx(trained.score(media, exact))
    assert trained.score(media, trained.predict(media).mean) == pytest.approx(1.0)
    tree = trained.to_datatree()
    assert {"prior", "constant_data", "optimization"} <= set(tree.children)
    assert tree["prior"]["u"].dims == ("chain", "draw", "node")


def test_galerkin_modes_of_the_network_beat_the_network(trained, media):
    pde = trained.problem
    basis = trained.galerkin(MEDIA.sample(60, seed=4), num_modes=10)
    coefficients = pde.coefficients(media)
    exact = pde.solve(coefficients)
    network = trained.predict(media).mean.reshape(exact.shape)

    def energy_error(u):
        return (pde.energy(u, coefficients) - pde.energy(exact, coefficients)).mean()

    assert energy_error(basis.solve(coefficients).values) < energy_error(network)


def test_bad_arguments_are_refused(trained, media):
    with pytest.raises(ValueError, match="fitted input grid"):
        trained.predict(media[:, :8])
    with pytest.raises(ValueError, match="values 5 and 10"):
        trained.predict(media + 0.1)
    with pytest.raises(ValueError, match="must lie in the domain"):
        trained.predict(media, POINTS + 1)
    with pytest.raises(ValueError, match="one vector per row"):
        trained.decode_input(torch.zeros(2, 5))
