"""The engine on linear Gaussian problems, whose posteriors are known in closed form."""

import pytest
import torch

from inference import diagnostics
from probnet.neural_operator.delayed_acceptance import DelayedAcceptance, Level
from probnet.neural_operator.kernels import CrankNicolson, Hamiltonian, LocalMove, ScaledMove

DIM, NOISE_SD = 3, 0.5
OPERATOR = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.7]], dtype=torch.float64)
Y = torch.tensor([0.8, -0.4], dtype=torch.float64)
WRONG_OPERATOR = OPERATOR + torch.tensor([[0.3, 0.0, 0.4], [-0.2, 0.1, 0.0]])
LIMIT = 4.5  # standard errors; two-sided p of 7e-6, and about 30 comparisons in this file


def log_likelihood(operator, shift=0.0):
    """ℓ(x) = -|y - Ax - shift|²/2σ², with Ax as by-product."""

    def evaluate(x):
        u = x @ operator.T
        return -(Y - u - shift).square().sum(-1) / (2 * NOISE_SD**2), u

    return evaluate


def closed_form():
    precision = torch.eye(DIM, dtype=torch.float64) + OPERATOR.T @ OPERATOR / NOISE_SD**2
    covariance = torch.linalg.inv(precision)
    return covariance @ OPERATOR.T @ Y / NOISE_SD**2, covariance


def run(levels, kernel, num_chains=40, num_warmup=200, num_steps=600, seed=0):
    chains = DelayedAcceptance(
        levels, kernel, torch.zeros(num_chains, DIM, dtype=torch.float64), seed=seed
    )
    for _ in range(num_warmup):
        chains.step()
    chains.freeze()
    states = [chains.step() for _ in range(num_steps)]
    return torch.stack([s.position for s in states], 1), chains


def z_scores(draws, truth):
    """Differences of sample means from the truth in Monte Carlo standard errors."""
    values = draws.numpy()
    error = values.std((0, 1)) / diagnostics.ess(values) ** 0.5
    return (values.mean((0, 1)) - truth.numpy()) / error


def second_moments(draws):
    """Draws of the products x_i x_j, i <= j."""
    i, j = torch.triu_indices(DIM, DIM)
    return draws[..., i] * draws[..., j]


def moments(mean, covariance):
    i, j = torch.triu_indices(DIM, DIM)
    return (covariance + torch.outer(mean, mean))[i, j]


EXACT = Level(log_likelihood(OPERATOR), num_steps=5)
WRONG = Level(log_likelihood(WRONG_OPERATOR, shift=0.2))
BETWEEN = Level(log_likelihood((OPERATOR + WRONG_OPERATOR) / 2), num_steps=3)


@pytest.mark.parametrize(
    ("levels", "kernel"),
    [
        ([EXACT], CrankNicolson),
        ([WRONG, EXACT], CrankNicolson),
        ([WRONG, BETWEEN, EXACT], CrankNicolson),
        ([WRONG, EXACT], lambda n: Hamiltonian(step_size=0.4, num_steps=3)),
        ([EXACT], lambda n: Hamiltonian(step_size=0.4, num_steps=3)),
    ],
    ids=["pcn", "two levels", "three levels", "hmc inside", "hmc"],
)
def test_the_law_is_the_exact_posterior(levels, kernel):
    draws, chains = run(levels, kernel(40))
    mean, covariance = closed_form()
    assert abs(z_scores(draws, mean)).max() < LIMIT
    assert abs(z_scores(second_moments(draws), moments(mean, covariance))).max() < LIMIT
    assert bool((chains.accept_rate > 0.1).all())
    torch.testing.assert_close(chains.state.product, chains.state.position @ OPERATOR.T)


def test_without_the_exact_test_the_wrong_surrogate_shows():
    draws, _ = run([WRONG], CrankNicolson(40))
    assert abs(z_scores(draws, closed_form()[0])).max() > 10


def test_detailed_balance_with_a_wrong_surrogate():
    """In equilibrium (x, x') and (x', x) have one law: E[f(x) g(x') - g(x) f(x')] = 0."""
    num_chains = 1500
    mean, covariance = closed_form()
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(num_chains, DIM, generator=generator, dtype=torch.float64)
    start = mean + noise @ torch.linalg.cholesky(covariance).T
    kernel = CrankNicolson(num_chains, step=0.7)
    kernel.freeze()
    chains = DelayedAcceptance([WRONG, EXACT], kernel, start, seed=2)
    flux = []
    for _ in range(10):
        before, after = chains.state.position, chains.step().position
        flux.append(before[:, 0] * after[:, 1] ** 3 - after[:, 0] * before[:, 1] ** 3)
        moved = (before != after).any(-1)
    per_chain = torch.stack(flux).mean(0)
    assert 0.2 < float(moved.double().mean()) < 1
    assert abs(float(per_chain.mean() / (per_chain.std() / num_chains**0.5))) < LIMIT


@pytest.mark.parametrize("adapts", [False, True])
@pytest.mark.parametrize("move", ["scaled", "local"])
def test_moves_leave_the_prior_as_it_is(move, adapts):
    """Without data every proposal is accepted and N(0, I) stays, pair by pair symmetric."""
    num_chains, shape = 1500, (3, 4)
    moves = [ScaledMove(adapts=adapts) if move == "scaled" else LocalMove(shape, 0.3)]
    kernel = CrankNicolson(num_chains, moves, step=0.6)
    flat = Level(lambda x: (x.new_zeros(len(x)), x[:, :0]))
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(num_chains, 12, generator=generator, dtype=torch.float64)
    chains = DelayedAcceptance([flat], kernel, start, seed=1)
    for _ in range(5):
        end = chains.step().position
    assert bool((chains.num_accepted == 5).all())
    variance_error = 12**0.5 * (2 / num_chains) ** 0.5 / 12
    assert abs(float(end.var(0).mean()) - 1) < LIMIT * variance_error
    asymmetry = start * end**3 - end * start**3
    per_chain = asymmetry.mean(1)
    assert abs(float(per_chain.mean() / per_chain.std())) * num_chains**0.5 < LIMIT


def test_exact_evaluations_are_counted_and_saved():
    _, chains = run([WRONG, EXACT], CrankNicolson(40), num_warmup=0, num_steps=200)
    cheap, exact = chains.num_evaluations
    assert cheap == 40 * (1 + 200 * 5)
    assert exact <= 40 * 201
    assert exact == 40 + int(chains.num_tested.sum())


def test_steps_adapt_to_the_acceptance_rate_in_warmup_alone():
    kernel = CrankNicolson(40, target_accept_prob=0.25, step=0.01)
    _, chains = run([EXACT], kernel, num_warmup=1000, num_steps=1500)
    assert abs(float(chains.accept_rate.mean()) - 0.25) < 0.03
    steps = kernel.steps.clone()
    chains.step()
    torch.testing.assert_close(kernel.steps, steps, rtol=0, atol=0)


def test_a_chain_does_not_depend_on_how_many_there_are():
    few, _ = run([WRONG, EXACT], CrankNicolson(2), num_chains=2, num_steps=20)
    many, _ = run([WRONG, EXACT], CrankNicolson(5), num_chains=5, num_steps=20)
    torch.testing.assert_close(few, many[:2], rtol=1e-10, atol=1e-10)


def test_non_finite_likelihoods_are_refused():
    def broken(x):
        value, product = log_likelihood(OPERATOR)(x)
        return torch.where(x[:, 0] > 0.5, torch.nan, value), product

    draws, _ = run([WRONG, Level(broken, 5)], CrankNicolson(10), num_chains=10, num_steps=200)
    assert float(draws[..., 0].max()) <= 0.5


def test_bad_arguments():
    with pytest.raises(ValueError, match="`levels` must hold at least the exact"):
        DelayedAcceptance([], CrankNicolson(1), torch.zeros(1, 1), seed=0)
    with pytest.raises(ValueError, match=r"`levels\[0\].num_steps` must be at least 1"):
        DelayedAcceptance([Level(EXACT.log_likelihood, 0)], CrankNicolson(1), Y[None], seed=0)
    with pytest.raises(ValueError, match="`target_accept_prob`"):
        CrankNicolson(1, target_accept_prob=1.0)
    with pytest.raises(ValueError, match="`radius` must be a finite number > 0"):
        LocalMove((3, 3), 0.0)
