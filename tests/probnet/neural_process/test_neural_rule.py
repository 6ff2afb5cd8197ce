import pytest
import torch

from probnet.neural_process.rules import PredictiveRule

CONDITIONAL = ["CNP", "CANP", "BNP", "BANP", "MPNP", "MPNP-data", "MPANP"]


def data():
    xc = torch.tensor([[-1.0], [0.2], [0.9]], dtype=torch.float64)
    return xc, torch.sin(3 * xc), torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("name", CONDITIONAL)
def test_updating_is_conditioning_on_all(name, small, pretend):
    """Four paths with other observations each, against conditioning anew on each of them."""
    trained = pretend(small(name))
    xc, yc, xt = data()
    rule = trained.condition(xc, yc).as_rule()
    assert isinstance(rule, PredictiveRule)
    assert rule.x_range == (-2.0, 2.0)
    state = rule.start(xc, yc, 4)
    stream = torch.Generator().manual_seed(0)
    new_x = torch.rand(3, 4, 1, 1, generator=stream, dtype=torch.float64)
    new_y = torch.randn(3, 4, 1, 1, generator=stream, dtype=torch.float64)
    for x, y in zip(new_x, new_y, strict=True):
        state = rule.update(state, x, y)
    law = rule.predict(state, xt[None])
    assert law.batch_shape == (4, 5)
    assert law.event_shape == (1,)
    for path in range(4):
        x = torch.cat([xc, new_x[:, path, 0]])
        y = torch.cat([yc, new_y[:, path, 0]])
        expected = trained.condition(x, y).base(xt)
        torch.testing.assert_close(law.mean[path], expected.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(law.stddev[path], expected.stddev, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["CNP", "MPNP"])
def test_the_state_of_pooled_models_does_not_grow(name, small, pretend):
    xc, yc, _ = data()
    rule = pretend(small(name)).as_rule()

    def size(state):
        if isinstance(state, torch.Tensor):
            return state.numel()
        return sum(size(part) for part in state)

    state = rule.start(xc, yc, 4)
    later = rule.update(state, xc[None, :1], yc[:1].expand(4, 1, 1))
    assert size(later) == size(state)


def test_shared_inputs_and_shared_paths(small, pretend):
    xc, yc, xt = data()
    rule = pretend(small("MPANP")).as_rule()
    state = rule.start(xc, yc, 6)
    state = rule.update(state, xt[None, :1], yc[:1].expand(6, 1, 1))
    mean = rule.predict(state, xt[None]).mean
    torch.testing.assert_close(mean[0].expand_as(mean), mean, rtol=1e-5, atol=1e-6)


def test_latent_models_have_no_rule(small, pretend):
    with pytest.raises(ValueError, match="no one-step predictive in one pass"):
        pretend(small("NP")).as_rule()
