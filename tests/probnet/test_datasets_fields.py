"""Random fields: their laws against closed forms, and what is refused."""

import math

import pytest
import torch
from scipy.fft import idctn

from probnet.datasets.fields import InflowProfile, LevelSetGRF, SineField, SineSeries

SAMPLERS = [LevelSetGRF(), SineField(), SineSeries(), InflowProfile()]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_seeds_give_equal_fields(sampler):
    fields = sampler.sample(3, seed=1)
    assert fields.shape == (3, *sampler.grid)
    assert fields.dtype == torch.float64
    assert torch.equal(fields, sampler.sample(3, seed=1))
    assert not torch.equal(fields, sampler.sample(3, seed=2))


def test_the_level_set_field_is_the_benchmark_s_cosine_series():
    """n τ^{α-1} (π²|k|² + τ²)^{-α/2} z_k without k = 0, by SciPy's inverse DCT-II."""
    prior = LevelSetGRF(tau=9.0, num_nodes=7)
    white = torch.randn(2, 49, generator=torch.Generator().manual_seed(0)).double()
    k = torch.arange(7).double()
    scale = 7 * 9.0 / (math.pi**2 * (k[:, None] ** 2 + k**2) + 81)
    scale[0, 0] = 0
    z = prior.to_modes(white).reshape(2, 7, 7)
    expected = idctn((scale * z).numpy(), type=2, norm="ortho", axes=(-2, -1))
    torch.testing.assert_close(prior.field(white), torch.from_numpy(expected))
    torch.testing.assert_close(prior.decode_modes(z.flatten(1)), prior.decode(white))


def test_the_level_set_field_has_two_equal_phases():
    """P(high) = ½ by symmetry; five standard errors over independent fields."""
    media = LevelSetGRF().sample(400, seed=0)
    assert set(media.unique().tolist()) == {5.0, 10.0}
    share = (media == 10).double().mean((1, 2))
    assert abs(float(share.mean()) - 0.5) < 5 * float(share.std()) / math.sqrt(400)


def test_smooth_permeabilities_have_the_stated_form():
    a = SineField().sample(200, seed=0)
    assert (a >= 0.1).all()
    torch.testing.assert_close(a[:, 0, 0], torch.full((200,), 3.1).double())
    # a is a sum of a function of x and one of y
    mixed = a[:, 1:, 1:] - a[:, :1, 1:] - a[:, 1:, :1] + a[:, :1, :1]
    assert mixed.abs().max() < 1e-12
    omega = torch.asin(a[:, 1, 0] - 3.1) * 28  # sin(ω/28) is monotone on the range
    assert omega.max() <= 1.75 * math.pi
    assert abs(float(omega.mean()) - 0.875 * math.pi) < 5 * 1.75 * math.pi / math.sqrt(12 * 200)


def test_initial_values_are_odd_and_have_the_given_rms():
    u = SineSeries(num_nodes=257).sample(50, seed=0)
    torch.testing.assert_close(u, -u.flip(-1))
    assert u[:, [0, 128, -1]].abs().max() < 1e-12
    rms = torch.trapezoid(u.square(), dx=1 / 128).div(2).sqrt()
    torch.testing.assert_close(rms, torch.full((50,), 0.25).double())


def test_inflows_vanish_at_the_walls_only():
    a = InflowProfile().sample(50, seed=0)
    assert a[:, [0, -1]].abs().max() < 1e-12
    assert (a[:, 128] > -2).all()
    assert (a.abs().amax(1) > 0.1).all()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: LevelSetGRF(tau=0.0), "tau"),
        (lambda: LevelSetGRF(alpha=1.0), "alpha"),
        (lambda: LevelSetGRF(low=-1.0), "low"),
        (lambda: LevelSetGRF(low=5.0, high=5.0), "high"),
        (lambda: LevelSetGRF(num_nodes=1), "num_nodes"),
        (lambda: SineField(1), "num_nodes"),
        (lambda: SineSeries(num_modes=0), "num_modes"),
        (lambda: SineSeries(rms=0.0), "rms"),
        (lambda: InflowProfile(1), "num_nodes"),
        (lambda: SineField().sample(0), "num_samples"),
    ],
)
def test_bad_arguments_are_refused(make, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        make()
