import math

import pytest
import torch
from torch.distributions import Normal

from probnet.neural_process.heads import HEADS, make_head, transformed


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("min_scale", [1e-3, 0.1])
def test_initial_scale_is_one_half(name, min_scale):
    head = make_head(name, 3, min_scale)
    law = head.law(head.initial_bias().expand(5, -1))
    assert law.batch_shape == (5, 3)
    parts = law.component_distribution if name == "mixture" else law
    torch.testing.assert_close(parts.scale, torch.full_like(parts.scale, 0.5))


def test_gaussian_scale_is_the_published_one():
    s = torch.linspace(-4, 4, 9)
    law = make_head("gaussian", 1, 0.1).law(torch.stack([torch.zeros(9), s], -1))
    torch.testing.assert_close(law.scale[:, 0], 0.1 + 0.9 * torch.log1p(s.exp()))


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_the_floor_caps_the_density(name):
    head = make_head(name, 1, 0.1)
    outputs = 30 * torch.randn(
        5000, head.num_outputs, generator=torch.Generator().manual_seed(0)
    )
    law = head.law(outputs)
    centres = law.loc if name == "gaussian" else law.component_distribution.loc.squeeze(-2).T
    largest = law.log_prob(centres.reshape(-1, 5000, 1) if name == "mixture" else centres).max()
    cap = -math.log(0.1 * math.sqrt(2 * math.pi))
    assert cap == pytest.approx(1.3836, abs=1e-4)
    assert cap - 0.3 < largest <= cap + 1e-5


@pytest.mark.parametrize("name", HEADS)
def test_quantiles_invert_the_cdf_and_laws_can_be_doubled(name):
    head = make_head(name, 2, 1e-3)
    outputs = torch.randn(4, head.num_outputs, generator=torch.Generator().manual_seed(0))
    law = transformed(head.law(outputs), torch.Tensor.double)
    p = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)[:, None, None]
    quantiles = law.icdf(p.expand(3, 4, 2))
    assert quantiles.dtype == torch.float64
    torch.testing.assert_close(law.cdf(quantiles), p.expand(3, 4, 2), rtol=0, atol=1e-8)
    torch.testing.assert_close(law.mean.float(), head.law(outputs).mean)


def test_mixture_of_equal_components_is_a_normal():
    head = make_head("mixture", 1, 1e-3)
    outputs = torch.tensor([0.3] * 4 + [-1.0] * 4 + [0.1, 0.5, -0.2, 2.0])[None]
    law = head.law(outputs)
    expected = Normal(0.3, float(law.stddev))
    y = torch.linspace(-1, 2, 7)[:, None, None]
    torch.testing.assert_close(law.log_prob(y), expected.log_prob(y))


def test_student_t_has_finite_variance():
    head = make_head("student_t", 1, 1e-3)
    law = head.law(torch.tensor([[0.0, 0.0, -20.0]]))
    assert float(law.df) > 2
    assert law.variance.isfinite()


def test_bad_heads_are_rejected():
    with pytest.raises(ValueError, match="`likelihood` must be one of"):
        make_head("gauss", 1, 0.1)
    with pytest.raises(ValueError, match="`min_scale`"):
        make_head("gaussian", 1, 1.0)
    with pytest.raises(ValueError, match="`min_scale`"):
        make_head("gaussian", 1, -0.1)
