"""The level-set prior against SciPy's cosine transform and the field's own covariance."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from probnet.neural_operator.level_set import LevelSetGRF


def white_noise(num, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dim, generator=generator, dtype=torch.float64)


def test_field_is_that_of_the_benchmark():
    """Coefficients n τ^(α-1) (π²|k|² + τ²)^(-α/2) z, orthonormal inverse DCT-II, z = DCT(w)."""
    n, tau, alpha = 7, 3.0, 2.0
    prior = LevelSetGRF(tau=tau, alpha=alpha, num_nodes=n)
    white = white_noise(4, n * n)
    k = np.arange(n)
    scale = (
        n * tau ** (alpha - 1) * (np.pi**2 * (k[:, None] ** 2 + k**2) + tau**2) ** (-alpha / 2)
    )
    scale[0, 0] = 0
    for w, g in zip(white.numpy().reshape(-1, n, n), prior.field(white).numpy(), strict=True):
        expected = idctn(scale * dctn(w, norm="ortho"), norm="ortho")
        np.testing.assert_allclose(g, expected, atol=1e-12)


def test_transform_is_orthonormal():
    prior = LevelSetGRF(num_nodes=6)
    white = white_noise(3, 36)
    modes = prior.to_modes(white)
    torch.testing.assert_close(modes.square().sum(-1), white.square().sum(-1))
    torch.testing.assert_close(prior.from_modes(modes), white)


def test_media_have_two_values_equally_often():
    prior = LevelSetGRF(low=2.0, high=3.0, num_nodes=9)
    media = prior.decode(white_noise(2000, 81))
    assert set(media.unique().tolist()) == {2.0, 3.0}
    share = (media == 3).double().mean((1, 2))
    error = float(share.std()) / 2000**0.5
    assert abs(float(share.mean()) - 0.5) < 4.5 * error


def test_a_larger_tau_has_shorter_interfaces_apart():
    white = white_noise(100, 441)
    changes = [
        float((LevelSetGRF(tau=tau, num_nodes=21).decode(white).diff(dim=1) != 0).sum())
        for tau in (3.0, 9.0)
    ]
    assert changes[1] > 1.2 * changes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "`tau` must be a finite number > 0"),
        ({"alpha": 1.0}, "`alpha` must be above 1"),
        ({"low": -5.0}, "`low` must be a finite number > 0"),
        ({"low": 10.0}, "`low` and `high` must differ"),
        ({"num_nodes": 1}, "`num_nodes` must be at least 2"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        LevelSetGRF(**options)
