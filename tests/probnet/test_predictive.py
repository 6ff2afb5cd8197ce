"""Mixtures over draws and Student's t, against closed forms and SciPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from torch.distributions import Bernoulli, Independent, MixtureSameFamily, Normal, Poisson
from torch.distributions import Categorical as TorchCategorical

from inference.rng import scoped_seed
from probnet.predictive import DrawsMixture, StudentT

GENERATOR = torch.Generator().manual_seed(0)


def normals(*shape):
    """Normal components with means and sds of every size."""
    loc = 3 * torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)
    scale = torch.rand(*shape, generator=GENERATOR, dtype=torch.float64) * 2 + 0.05
    return Normal(loc, scale)


def reference(components):
    """torch's own mixture, which wants the components last."""
    moved = Normal(components.loc.movedim(0, -1), components.scale.movedim(0, -1))
    return MixtureSameFamily(TorchCategorical(torch.ones_like(moved.loc)), moved)


def test_moments_and_densities_are_those_of_torch_mixtures():
    components = normals(7, 3, 4)
    ours, theirs = DrawsMixture(components), reference(components)
    y = torch.linspace(-5, 5, 12, dtype=torch.float64).reshape(3, 4)
    assert ours.batch_shape == (3, 4)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)
    torch.testing.assert_close(ours.stddev, theirs.variance.sqrt())
    torch.testing.assert_close(ours.log_prob(y), theirs.log_prob(y))
    torch.testing.assert_close(ours.cdf(y), theirs.cdf(y))


def test_one_component_is_that_component():
    component = normals(1, 5)
    mixture, alone = DrawsMixture(component), Normal(component.loc[0], component.scale[0])
    q = torch.tensor(0.975, dtype=torch.float64)
    torch.testing.assert_close(mixture.icdf(q), alone.icdf(q))
    torch.testing.assert_close(mixture.variance, alone.variance)


def test_chain_and_draw_axes_are_joined():
    components = normals(4, 6, 3)
    joined = Normal(components.loc.reshape(24, 3), components.scale.reshape(24, 3))
    two, one = DrawsMixture(components, num_draw_axes=2), DrawsMixture(joined)
    y = torch.randn(8, 3, generator=GENERATOR, dtype=torch.float64)
    assert two.batch_shape == (3,)
    assert two.num_draws == 24
    for method in ("log_prob", "cdf"):
        torch.testing.assert_close(getattr(two, method)(y), getattr(one, method)(y))
    with scoped_seed(1):
        first = two.sample((10,))
    with scoped_seed(1):
        torch.testing.assert_close(first, one.sample((10,)))


@given(
    loc=arrays(float, (5, 2), elements=st.floats(-100, 100)),
    scale=arrays(float, (5, 2), elements=st.floats(1e-3, 100)),
    p=st.floats(1e-9, 1 - 1e-9),
)
def test_quantiles_invert_the_cdf(loc, scale, p):
    mixture = DrawsMixture(Normal(torch.from_numpy(loc), torch.from_numpy(scale)))
    x = mixture.icdf(torch.tensor(p, dtype=torch.float64))
    # A last bit of x moves the cdf by up to density times |x| times eps.
    slack = 1e-14 + 1e-14 * mixture.log_prob(x).exp() * x.abs()
    assert ((mixture.cdf(x) - p).abs() <= slack).all()


def test_quantiles_are_found_between_separated_spikes():
    """The density between the components underflows, so that Newton alone would run away."""
    loc = torch.tensor([[-1e3], [0.0], [1e3]], dtype=torch.float64)
    mixture = DrawsMixture(Normal(loc, 1e-3))
    expected = [-1e3, 0.0, 1e3]
    for p, x in zip([1 / 6, 1 / 2, 5 / 6], expected, strict=True):
        assert float(mixture.icdf(torch.tensor(p))) == pytest.approx(x, abs=1e-8)


def test_quantiles_of_undefined_components_are_undefined():
    loc = torch.tensor([[0.0, np.nan], [1.0, 0.0]], dtype=torch.float64)
    x = DrawsMixture(Normal(loc, 1.0, validate_args=False)).icdf(torch.tensor(0.3))
    assert x.isnan().tolist() == [False, True]


def test_quantiles_take_few_evaluations(monkeypatch):
    mixture, calls = DrawsMixture(normals(200, 50)), []
    counted = mixture.cdf
    monkeypatch.setattr(mixture, "cdf", lambda value: calls.append(1) or counted(value))
    mixture.icdf(torch.tensor(0.9))
    assert len(calls) <= 25  # bisection alone takes more than 50


def test_quantiles_of_several_probabilities_at_once_and_at_the_ends():
    mixture = DrawsMixture(normals(9, 4))
    p = torch.tensor([[0.0], [0.1], [0.9], [1.0]], dtype=torch.float64)
    x = mixture.icdf(p)
    assert x.shape == (4, 4)
    assert (x[0] == -torch.inf).all()
    assert (x[3] == torch.inf).all()
    torch.testing.assert_close(mixture.cdf(x[1:3]), p[1:3].expand(2, 4))
    assert (mixture.icdf(torch.tensor(1e-300, dtype=torch.float64)) == -torch.inf).all()
    with pytest.raises(ValueError, match="probabilities in"):
        mixture.icdf(torch.tensor(95.0))


def test_samples_have_the_mixture_law():
    components = normals(6, 2)
    mixture = DrawsMixture(components)
    with scoped_seed(0):
        draws = mixture.sample((4000,))
    for j in range(2):
        column = torch.zeros(4000, 2, dtype=torch.float64)
        column[:, j] = draws[:, j]
        statistic = stats.kstest(mixture.cdf(column)[:, j].numpy(), "uniform")
        assert statistic.pvalue > 1e-3
    # Negative control: the mixture with one component left out is told apart.
    smaller = DrawsMixture(Normal(components.loc[1:], components.scale[1:]))
    assert stats.kstest(smaller.cdf(draws)[:, 0].numpy(), "uniform").pvalue < 1e-6


def test_a_sample_uses_one_draw_at_all_points():
    """Noise-free lines through the origin: every sample must be a line."""
    slopes = torch.linspace(-1, 1, 11, dtype=torch.float64)[:, None]
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    lines = DrawsMixture(Normal(slopes * x, 1e-9))
    with scoped_seed(0):
        samples = lines.sample((50, 2))
    assert samples.shape == (50, 2, 3)
    torch.testing.assert_close(samples, samples[..., :1] * x, atol=1e-7, rtol=0)
    assert samples[..., 0].unique().numel() > 50  # repeats of a draw have noise of their own


def test_sampling_once_and_never():
    mixture = DrawsMixture(normals(3, 2))
    with scoped_seed(0):
        assert mixture.sample().shape == (2,)
        assert mixture.sample((0,)).shape == (0, 2)


def test_event_axes_give_the_joint_law():
    components = normals(5, 3)
    joint = DrawsMixture(Independent(components, 1))
    y = torch.zeros(3, dtype=torch.float64)
    expected = components.log_prob(y).sum(-1).logsumexp(0) - np.log(5)
    assert joint.event_shape == (3,)
    torch.testing.assert_close(joint.log_prob(y), expected)
    torch.testing.assert_close(joint.mean, components.mean.mean(0))
    assert not torch.isclose(joint.log_prob(y), DrawsMixture(components).log_prob(y).sum())


def test_gradients_reach_the_components():
    loc = torch.randn(4, 2, generator=GENERATOR, dtype=torch.float64, requires_grad=True)
    y = torch.zeros(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: DrawsMixture(Normal(m, 1.0)).log_prob(y), loc)


def test_discrete_components_have_masses_but_no_quantiles():
    rate = torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    mixture = DrawsMixture(Poisson(rate))
    y = torch.tensor([2.0], dtype=torch.float64)
    expected = np.log(stats.poisson.pmf(2, [1, 4]).mean())
    assert float(mixture.log_prob(y)) == pytest.approx(expected)
    assert float(mixture.variance) == pytest.approx(2.5 + 2.25)
    with pytest.raises(NotImplementedError):
        mixture.icdf(torch.tensor(0.5))


def test_shapes_that_would_broadcast_silently_are_refused():
    mixture = DrawsMixture(normals(3, 4))
    with pytest.raises(ValueError, match=r"squeeze\(-1\)"):
        mixture.log_prob(torch.zeros(4, 1, dtype=torch.float64))
    assert mixture.log_prob(torch.tensor(0.0, dtype=torch.float64)).shape == (4,)


@pytest.mark.parametrize(("shape", "axes"), [((), 1), ((0, 3), 1), ((4,), 2)])
def test_components_without_draws_are_refused(shape, axes):
    with pytest.raises(ValueError, match="leading batch axes of posterior draws"):
        DrawsMixture(Bernoulli(torch.full(shape, 0.5)), axes)


def test_it_says_what_it_is():
    assert repr(DrawsMixture(normals(3, 4))) == "DrawsMixture(3 x Normal, batch_shape=(4,))"


@pytest.mark.parametrize("df", [0.7, 3.0, 40.0])
def test_student_t_agrees_with_scipy(df):
    ours = StudentT(torch.tensor(df, dtype=torch.float64), 1.5, 2.0)
    theirs = stats.t(df, 1.5, 2.0)
    y = torch.linspace(-20, 20, 9, dtype=torch.float64)
    p = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    np.testing.assert_allclose(ours.cdf(y), theirs.cdf(y), rtol=1e-12)
    np.testing.assert_allclose(ours.icdf(p), theirs.ppf(p), rtol=1e-9)
    np.testing.assert_allclose(ours.log_prob(y), theirs.logpdf(y), rtol=1e-12)
    assert ours.expand((2,)).cdf(torch.zeros(2)).shape == (2,)


def test_a_mixture_of_student_t_has_quantiles():
    df = torch.tensor([[2.0], [5.0]], dtype=torch.float64)
    mixture = DrawsMixture(StudentT(df, torch.zeros(2, 3, dtype=torch.float64), 1.0))
    x = mixture.icdf(torch.tensor(0.9))
    expected = np.mean(stats.t([2, 5]).cdf(float(x[0])))
    assert expected == pytest.approx(0.9, abs=1e-7)
