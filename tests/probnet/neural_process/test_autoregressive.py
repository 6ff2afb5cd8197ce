"""Autoregressive densities and functions against conditioning by hand."""

import pytest
import torch

from probnet.neural_process import TNP, Autoregressive

MODELS = ["CNP", "CANP", "MPNP", "TNP"]


@pytest.fixture
def posterior(small, pretend):
    def make(name, xc, yc, **options):
        if name == "TNP":
            model = TNP(width=16, num_layers=2, num_heads=4)
            model.initialise(1)
        else:
            model = small(name)
        return pretend(model).condition(xc, yc, **options)

    return make


def data(n=5, m=4, tasks=None):
    stream = torch.Generator().manual_seed(1)
    shape = () if tasks is None else (tasks,)
    x = torch.rand(*shape, n + m, 1, generator=stream).double() * 4 - 2
    y = torch.randn(*shape, n + m, 1, generator=stream).double()
    return x[..., :n, :], y[..., :n, :], x[..., n:, :], y[..., n:, :]


def by_hand(posterior, x, y, order):
    """Conditioning anew on every point, one after the other."""
    total = 0.0
    for j in order:
        total = total + posterior.base(x[j : j + 1]).log_prob(y[j : j + 1]).sum()
        posterior = posterior.condition(x[j : j + 1], y[j : j + 1])
    return total


@pytest.mark.parametrize("name", MODELS)
def test_the_density_of_two_points_is_the_mean_over_both_orders(name, posterior):
    """With many random orders both come equally often, to within 5 standard errors."""
    xc, yc, xt, yt = data(m=2)
    f = posterior(name, xc, yc)
    logs = torch.stack([by_hand(f, xt, yt, order) for order in ([0, 1], [1, 0])]).double()
    ours = Autoregressive(f).log_prob(xt, yt, num_orders=400).double()
    low, high = logs.exp().sort().values
    assert abs(float(ours.exp() - (low + high) / 2)) < 5 * float(high - low) / 2 / 20 + 1e-5
    one = Autoregressive(f).log_prob(xt, yt, num_orders=1)
    assert float((logs - one).abs().min()) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_tasks_and_masks(name, posterior):
    """A padded batch gives what its tasks give alone, up to their orders."""
    xc, yc, xt, yt = data(m=3, tasks=2)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    f = posterior(name, xc, yc)
    ours = Autoregressive(f).log_prob(xt, yt, mask=mask, num_orders=2)
    alone = posterior(name, xc[1], yc[1]).base(xt[1, :1]).log_prob(yt[1, :1]).sum()
    assert ours.shape == (2,)
    assert float(ours[1]) == pytest.approx(float(alone), abs=1e-4)
    poisoned = torch.where(mask[..., None], yt, 1e4)
    again = Autoregressive(f).log_prob(xt, poisoned, mask=mask, num_orders=2)
    torch.testing.assert_close(again, ours)


def test_functions_are_seeded_and_have_the_shape_asked_for(posterior):
    xc, yc, _, _ = data()
    grid = torch.linspace(-2, 2, 7).double()[:, None]
    f = Autoregressive(posterior("CNP", xc, yc))
    a, b, c = (f.sample_functions(grid, 20, seed=seed) for seed in (0, 0, 1))
    assert a.shape == (20, 7, 1)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert float(a.std(0).min()) > 0
    batched = Autoregressive(posterior("CNP", xc.repeat(3, 1, 1), yc.repeat(3, 1, 1)))
    assert batched.sample_functions(grid, 5, num_points=2).shape == (5, 3, 7, 1)


def test_a_function_with_one_drawn_point_is_the_updated_mean(posterior):
    """One point on the grid: the draw is y ~ p(y | x), the function E[y | x, D ∪ (x, y)]."""
    xc, yc, xt, _ = data(m=1)
    f = posterior("CNP", xc, yc)
    ours = Autoregressive(f).sample_functions(xt, 4000, seed=2)[:, 0, 0]
    y = f.base(xt).mean + f.base(xt).stddev * torch.linspace(-2, 2, 41).double()[:, None]
    updated = torch.cat([f.condition(xt, v[None]).base(xt).mean[0] for v in y])
    assert float(ours.min()) < float(updated.median()) < float(ours.max())
    middle = f.condition(xt, f.base(xt).mean).base(xt).mean
    assert abs(float(ours.mean() - middle)) < 5 * float(ours.std()) / 4000**0.5 + 0.02


def test_models_of_functions_only_are_refused(posterior):
    xc, yc, _, _ = data()
    with pytest.raises(ValueError, match="predicts by functions only"):
        Autoregressive(posterior("NP", xc, yc))
