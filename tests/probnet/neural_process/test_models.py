import pytest
import torch

from probnet.neural_process import ANP, BANP, BNP, CANP, CNP, MPANP, MPNP, NP

ALL = ["CNP", "CANP", "NP", "ANP", "BNP", "BANP", "MPNP", "MPNP-isab", "MPNP-data", "MPANP"]
ALL += ["MPANP-isab", "MPANP-data"]
# Which bootstrap copies a given noise picks depends on the order of the context.
ORDERLESS = [name for name in ALL if name not in {"BNP", "BANP"}]


def context(num_tasks=3, n=8):
    stream = torch.Generator().manual_seed(5)
    xc = torch.rand(num_tasks, n, 1, generator=stream) * 4 - 2
    yc = torch.randn(num_tasks, n, 1, generator=stream)
    mask = torch.arange(n) < torch.tensor([n, 5, 2])[:num_tasks, None]
    xt = torch.linspace(-2, 2, 9)[:, None]
    return xc, yc, mask, xt


def moments(posterior, xt, seed=3):
    law = posterior.predict(xt, seed=seed)
    return torch.stack([law.mean, law.stddev])


@pytest.mark.parametrize(
    ("kind", "options", "number"),
    [
        (CNP, {}, 132_866),
        (CANP, {}, 348_802),
        (MPNP, {"generator": "isab"}, 282_498),
        (MPANP, {"generator": "isab"}, 531_330),
    ],
)
def test_published_sizes(kind, options, number):
    assert sum(p.numel() for p in kind(x_dim=1, y_dim=1, **options).parameters()) == number


@pytest.mark.parametrize("name", ORDERLESS)
def test_invariant_to_the_order_of_the_context(name, small, pretend):
    trained = pretend(small(name))
    xc, yc, mask, xt = context()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    moved = trained.condition(xc[:, order], yc[:, order], mask=mask[:, order])
    difference = moments(moved, xt) - moments(trained.condition(xc, yc, mask=mask), xt)
    assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize("name", ALL)
def test_equivariant_to_the_order_of_targets(name, small, pretend):
    xc, yc, mask, xt = context()
    posterior = pretend(small(name)).condition(xc, yc, mask=mask)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    difference = moments(posterior, xt[order]) - moments(posterior, xt)[:, :, order]
    assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize("poison", [float("nan"), 1e30, float("inf")])
@pytest.mark.parametrize("name", ALL)
def test_padding_does_not_matter(name, poison, small, pretend):
    trained = pretend(small(name))
    xc, yc, mask, xt = context()
    reference = moments(trained.condition(xc, yc, mask=mask), xt)
    inside = mask[..., None]
    poisoned = trained.condition(
        torch.where(inside, xc, poison), torch.where(inside, yc, poison), mask=mask
    )
    assert torch.equal(moments(poisoned, xt), reference)


@pytest.mark.parametrize("name", ORDERLESS)
def test_a_task_is_predicted_alike_alone_and_in_a_padded_batch(name, small, pretend):
    trained = pretend(small(name))
    xc, yc, mask, xt = context()
    together = moments(trained.condition(xc, yc, mask=mask), xt)
    for task in range(3):
        alone = trained.condition(xc[task][mask[task]], yc[task][mask[task]])
        assert (moments(alone, xt) - together[:, task]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_and_poison_does_not_reach_the_objective(name, small):
    from probnet.datasets import GPTasks
    from probnet.neural_process.base import TrainingTasks

    model = small(name)
    tasks = GPTasks(seed=0)
    batch = tasks.batch(4, tasks.generator())
    stream = torch.Generator().manual_seed(0)
    noise = model.draw_noise(4, 2, batch.xc.shape[1], stream)
    loss = model.loss(model.terms(TrainingTasks.of(batch), noise))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    poisoned = {}
    for field, mask in {"xc": "mask_c", "yc": "mask_c", "xt": "mask_t", "yt": "mask_t"}.items():
        inside = getattr(batch, mask)[..., None]
        poisoned[field] = torch.where(inside, getattr(batch, field), torch.nan)
    bad = type(batch)(**poisoned, mask_c=batch.mask_c, mask_t=batch.mask_t)
    assert model.loss(model.terms(TrainingTasks.of(bad), noise)) == loss


@pytest.mark.parametrize("name", ALL)
def test_weights_depend_on_the_seed_only(name, small):
    first, again, other = small(name), small(name), small(name)
    other.initialise(2)
    same = [
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    ]
    assert all(same)
    assert not torch.equal(first.decoder.first.weight, other.decoder.first.weight)


@pytest.mark.parametrize("likelihood", ["student_t", "mixture"])
@pytest.mark.parametrize("name", ["CNP", "NP", "BNP", "MPNP", "MPANP"])
def test_every_model_takes_every_likelihood_and_dimension(name, likelihood, small, pretend):
    model = small(name, likelihood=likelihood, x_dim=2, y_dim=3)
    stream = torch.Generator().manual_seed(0)
    xc, yc = torch.rand(6, 2, generator=stream), torch.randn(6, 3, generator=stream)
    posterior = pretend(model).condition(xc, yc)
    law = posterior.predict(xc[:4], num_functions=7)
    assert law.mean.shape == (4, 3)
    assert law.log_prob(yc[:4]).shape == (4,)
    assert law.variance.isfinite().all()
    p = torch.tensor(0.9, dtype=torch.float64)
    torch.testing.assert_close(law.cdf(law.icdf(p)), p.expand(4, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [CNP, CANP, NP, ANP, BNP, BANP, MPNP, MPANP])
def test_a_model_that_is_not_trained_says_so(kind):
    with pytest.raises(ValueError, match="is not trained"):
        kind(width=8).condition(torch.zeros(2, 1), torch.zeros(2, 1))


def test_bad_arguments_are_rejected():
    with pytest.raises(ValueError, match="`num_pseudo` must be at least 1"):
        MPNP(num_pseudo=0)
    with pytest.raises(ValueError, match="Did you mean 'definetti'"):
        MPNP(generator="definnetti")
    with pytest.raises(ValueError, match="`objective_name`"):
        NP(objective_name="mle")
