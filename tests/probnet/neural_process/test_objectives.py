import math

import pyro
import pytest
import torch
from benchmarks.neural_process.plain_step import plain_terms

from inference.rng import scoped_seed
from probnet.datasets import GPTasks
from probnet.neural_process.base import TrainingTasks
from probnet.neural_process.objectives import marginal_term, martingale_term, pointwise_term


def batch(num_tasks=6):
    tasks = GPTasks(kernel="rbf", seed=0)
    return TrainingTasks.of(tasks.batch(num_tasks, tasks.generator()))


def noise_of(model, tasks, num_functions, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return model.draw_noise(len(tasks.xc), num_functions, tasks.xc.shape[1], stream)


@pytest.mark.parametrize("name", ["MPNP", "MPNP-isab", "MPANP", "MPANP-isab"])
def test_shared_computation_gives_the_plain_objective(name, small):
    model, tasks = small(name), batch()
    noise = noise_of(model, tasks, 4)
    ours, plain = model.terms(tasks, noise), plain_terms(model, tasks, noise)
    assert ours.keys() == plain.keys()
    for term, value in ours.items():
        torch.testing.assert_close(value, plain[term], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["MPNP", "MPANP-isab"])
def test_one_function_gives_its_mean_log_density(name, small):
    model, tasks = small(name), batch()
    noise = noise_of(model, tasks, 1)
    encoding = model.sample(model.encode(tasks.xc, tasks.yc, tasks.mask_c), noise)
    law = model.head.law(model.decode(encoding, tasks.x)[:, 0])
    logs = law.log_prob(tasks.y).sum(-1)
    expected = torch.stack([logs[i, tasks.mask[i]].mean() for i in range(len(logs))]).mean()
    torch.testing.assert_close(model.terms(tasks, noise)["marginal"], expected)


def test_more_functions_do_not_lower_the_bound(small):
    """E L_marg(K) increases with K; over many noises no doubling lowers it by two errors."""
    model, tasks = small("MPNP"), batch(4)
    with torch.no_grad():
        bounds = {
            k: torch.stack(
                [
                    model.terms(tasks, noise_of(model, tasks, k, s))["marginal"]
                    for s in range(60)
                ]
            )
            for k in (1, 2, 4, 8)
        }
    for k in (1, 2, 4):
        gain = bounds[2 * k].mean() - bounds[k].mean()
        error = (bounds[2 * k].var() / 60 + bounds[k].var() / 60).sqrt()
        assert gain > -2 * error
    assert bounds[8].mean() > bounds[1].mean()


@pytest.mark.parametrize("name", ["MPNP", "MPNP-isab", "MPNP-data", "MPANP", "MPANP-data"])
def test_which_terms_reach_the_generator(name, small):
    model, tasks = small(name), batch()
    noise = noise_of(model, tasks, 3)
    for term, reached in {"marginal": True, "amortised": False, "pseudo": True}.items():
        model.zero_grad()
        model.terms(tasks, noise)[term].backward()
        grads = [p.grad for p in model.pseudo.parameters()]
        if reached:
            assert all(g is not None for g in grads)
            assert sum(float(g.abs().sum()) for g in grads) > 0
        else:
            assert all(g is None or g.eq(0).all() for g in grads)


def test_a_generator_that_ignores_its_noise_gives_identical_functions(small):
    """Collapse: then the bound over K functions is that of one."""
    model, tasks = small("MPNP"), batch()
    with torch.no_grad():
        model.pseudo.attention.query.weight.zero_()
        several = model.terms(tasks, noise_of(model, tasks, 5))["marginal"]
        one = model.terms(tasks, noise_of(model, tasks, 1))["marginal"]
    torch.testing.assert_close(several, one)


def test_pseudo_only_predictions_of_some_functions_are_unbiased(small):
    model, some, tasks = small("MPNP"), small("MPNP", pseudo_functions=1), batch()
    with torch.no_grad():
        few = [some.terms(tasks, noise_of(some, tasks, 4, s))["pseudo"] for s in range(200)]
        all_of_them = [model.terms(tasks, noise_of(model, tasks, 4, s)) for s in range(200)]
    full = torch.stack([terms["pseudo"] for terms in all_of_them])
    difference = torch.stack(few) - full
    assert difference.std() > 0
    assert abs(difference.mean()) < 4 * difference.std() / 200**0.5
    terms = all_of_them[0]
    expected = some.terms(tasks, noise_of(some, tasks, 4, 0))["marginal"]
    torch.testing.assert_close(terms["marginal"], expected)


def test_weights_of_terms(small):
    model, tasks = small("MPNP", pseudo_weight=0.1, martingale_penalty=2.0), batch()
    terms = model.terms(tasks, noise_of(model, tasks, 3))
    expected = (
        terms["marginal"] + terms["amortised"] + 0.1 * terms["pseudo"] + 2 * terms["martingale"]
    )
    torch.testing.assert_close(model.loss(terms), -expected)
    assert terms["martingale"] < 0


def test_martingale_term_is_a_divergence_and_zero_where_the_moments_agree():
    stream = torch.Generator().manual_seed(0)
    loc, scale = torch.randn(2, 5, 4, 1, generator=stream), torch.full((2, 5, 4, 1), 0.3)
    mean = loc.mean(1, keepdim=True)
    sd = (0.09 + loc.var(1, correction=0, keepdim=True)).sqrt()
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    assert abs(martingale_term(loc, scale, mean, sd, mask)) < 1e-6
    base, mixed = (
        torch.distributions.Normal(mean + 0.2, sd),
        torch.distributions.Normal(mean, sd),
    )
    kl = torch.distributions.kl_divergence(base, mixed)[:, 0, :, 0]
    expected = -(kl[0].mean() + kl[1, :2].mean()) / 2
    torch.testing.assert_close(martingale_term(loc, scale, mean + 0.2, sd, mask), expected)


def test_terms_of_constant_densities():
    logs, count = torch.full((2, 3, 4), -0.5), torch.tensor([4, 4])
    assert float(marginal_term(logs, count)) == pytest.approx(-0.5)
    assert float(pointwise_term(logs, count)) == pytest.approx(-0.5)
    weights = torch.full((2, 3), math.log(2.0))
    assert float(marginal_term(logs, count, weights)) == pytest.approx(-0.5 + math.log(2) / 4)


def test_latent_prior_sees_the_context_only(small):
    """Targets must not move p(z | context), nor zero rows pooled in their place."""
    model, tasks = small("NP"), batch()
    prior = model.encode(tasks.xc, tasks.yc, tasks.mask_c).law
    task = 0
    points = tasks.mask_c[task]
    alone = model.latent(
        tasks.xc[task][points][None],
        tasks.yc[task][points][None],
        torch.ones(1, int(points.sum()), dtype=torch.bool),
    )
    torch.testing.assert_close(prior.loc[task], alone.loc[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["NP", "ANP"])
def test_objectives_of_latent_models(name, small):
    """With one z the importance-weighted bound averages to the ELBO."""
    tasks = batch(3)
    vi, elbo, ml = (small(name, objective_name=n) for n in ("vi", "elbo", "ml"))
    with torch.no_grad():
        weighted = torch.stack(
            [vi.loss(vi.terms(tasks, noise_of(vi, tasks, 1, s))) for s in range(300)]
        )
        exact = torch.stack(
            [elbo.loss(elbo.terms(tasks, noise_of(elbo, tasks, 1, s))) for s in range(300)]
        )
    difference = weighted - exact
    assert abs(difference.mean()) < 4 * difference.std() / 300**0.5
    terms = ml.terms(tasks, noise_of(ml, tasks, 2))
    assert terms.keys() == {"marginal"}


def test_bootstrap_resamples_valid_points_and_centres_residuals(small):
    model, tasks = small("BNP"), batch(5)
    encoding = model.encode(tasks.xc, tasks.yc, tasks.mask_c)
    noise = noise_of(model, tasks, 7)
    copies = model.bootstrap(encoding, noise)
    assert copies.shape == (5, 7, *tasks.yc.shape[1:])
    assert copies[~tasks.mask_c[:, None].expand(copies.shape[:-1])].eq(0).all()
    assert not copies.requires_grad
    # With one distinct residual, zero after centring, every copy is the prediction itself.
    one = encoding._replace(mask=tasks.mask_c & (torch.arange(tasks.xc.shape[1]) < 1))
    copy = model.bootstrap(one, noise)[:, :, 0]
    memory = model.remember(tasks.xc[:, :1], tasks.yc[:, :1], one.mask[:, :1])
    queries = model.backbone.queries(tasks.xc[:, :1])
    outputs = model.decoder(tasks.xc[:, :1], model.backbone.features(queries, memory))
    expected = model.head.law(outputs).loc[:, 0]
    torch.testing.assert_close(copy, expected.expand_as(copy), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["NP", "ANP"])
def test_pyro_sees_the_bound_that_fit_maximises(name, small):
    """TraceMeanField_ELBO is N times the sum of the "elbo" terms at the same z."""
    model, one = small(name, objective_name="elbo"), GPTasks(kernel="rbf", seed=0)
    drawn = one.batch(1, one.generator())
    tasks = TrainingTasks.of(drawn)
    elbo = pyro.infer.TraceMeanField_ELBO()
    with scoped_seed(3), pyro.get_param_store().scope():
        found = -elbo.loss(model.pyro_model, model.pyro_guide, drawn)
    with scoped_seed(3), torch.no_grad():
        law = model.latent(tasks.x, tasks.y, tasks.mask)
        z = pyro.distributions.Normal(law.loc, law.scale).sample()
        noise = ((z - law.loc) / law.scale).unsqueeze(1)
        terms = model.terms(tasks, noise)
    expected = float(sum(terms.values()) * tasks.num_points[0])
    assert found == pytest.approx(expected, rel=1e-4)


def test_pyro_trains_a_neural_process(small):
    model, stream = small("NP"), GPTasks(kernel="rbf", seed=0)
    random = stream.generator()
    with scoped_seed(0), pyro.get_param_store().scope():
        svi = pyro.infer.SVI(
            model.pyro_model,
            model.pyro_guide,
            pyro.optim.Adam({"lr": 1e-2}),
            pyro.infer.TraceMeanField_ELBO(),
        )
        losses = [svi.step(stream.batch(16, random)) for _ in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
