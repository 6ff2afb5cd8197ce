"""The neural critic: it brings a prior towards a target it can reach."""

import pytest
import torch

from probnet.bnn import BayesianMLP
from probnet.bnn.critic import CriticSettings, minimise_w1


def test_the_scale_of_a_constant_function_is_found():
    """f(x) = b with b ~ N(0, σ²), against N(0, 2²) at one point: σ goes from 0.5 to about 2."""
    prior = BayesianMLP(1, []).prior(stds={"w1": 0.01, "b1": 0.5})
    x = torch.zeros(1, 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def draw(number, current):
        f = current.function_values(x, current.draw_latents(128, seed=number))
        return f, 2 * torch.randn(128, 1, generator=generator, dtype=torch.float64)

    settings = CriticSettings(num_outer=40, num_inner=30)
    found, trace = minimise_w1(prior, draw, 1, settings, seed=0, progress=False)
    assert len(trace) == 40
    assert found.stds["b1"] == pytest.approx(2.0, rel=0.3)


def test_the_published_code_trains_its_critic_twice_as_long():
    assert CriticSettings(reference=True).num_inner == 2 * CriticSettings().num_inner == 200


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="`num_functions` must be at least 2"):
        CriticSettings(num_functions=1)
    with pytest.raises(ValueError, match="`penalty` must be a finite number > 0"):
        CriticSettings(penalty=-1.0)
