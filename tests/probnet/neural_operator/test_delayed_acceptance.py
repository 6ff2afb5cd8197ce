"""The engine on linear Gaussian problems, whose posteriors are known in closed form."""

import pytest
import torch

from inference import diagnostics
from probnet.neural_operator.delayed_acceptance import DelayedAcceptance, Level
from probnet.neural_operator.kernels import CrankNicolson, Tempered

DIM, NOISE_SD = 3, 0.5
OPERATOR = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.7]], dtype=torch.float64)
Y = torch.tensor([0.8, -0.4], dtype=torch.float64)
WRONG_OPERATOR = OPERATOR + torch.tensor([[0.3, 0.0, 0.4], [-0.2, 0.1, 0.0]])
LIMIT = 4.5  # standard errors; two-sided p of 7e-6, and about 30 comparisons in this file


def log_likelihood(operator, shift=0.0):
    """ℓ(x) = -|y - Ax - shift|²/2σ²."""

    def evaluate(x):
        return -(Y - x @ operator.T - shift).square().sum(-1) / (2 * NOISE_SD**2)

    return evaluate


def closed_form(operator=None, shift=0.0, temperature=1.0):
    operator = OPERATOR if operator is None else operator
    variance = temperature * NOISE_SD**2
    precision = torch.eye(DIM, dtype=torch.float64) + operator.T @ operator / variance
    covariance = torch.linalg.inv(precision)
    return covariance @ operator.T @ (Y - shift) / variance, covariance


def run(levels, kernel, num_chains=40, num_warmup=200, num_steps=600, num_hot=0, seed=0):
    start = torch.zeros(num_chains, 1 + num_hot, DIM, dtype=torch.float64)
    chains = DelayedAcceptance(levels, kernel, start[:, 0], replicas=start[:, 1:], seed=seed)
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
    ("levels", "temperatures"),
    [
        ([EXACT], []),
        ([WRONG, EXACT], []),
        ([WRONG, BETWEEN, EXACT], []),
        ([EXACT], [2.0, 5.0]),
        ([WRONG, EXACT], [2.0, 5.0]),
        ([WRONG, BETWEEN, EXACT], [3.0]),
    ],
    ids=["pcn", "two levels", "three", "tempered", "tempered, two levels", "tempered, three"],
)
def test_the_law_is_the_exact_posterior(levels, temperatures):
    kernel = Tempered(40, temperatures) if temperatures else CrankNicolson(40)
    draws, chains = run(levels, kernel, num_hot=len(temperatures))
    mean, covariance = closed_form()
    assert abs(z_scores(draws, mean)).max() < LIMIT
    assert abs(z_scores(second_moments(draws), moments(mean, covariance))).max() < LIMIT
    assert bool((chains.accept_rate > 0.1).all())
    exact = levels[-1].log_likelihood(chains.state.position)
    torch.testing.assert_close(chains.state.values[-1], exact)


def test_without_the_exact_test_the_wrong_surrogate_shows():
    draws, _ = run([WRONG], CrankNicolson(40))
    assert abs(z_scores(draws, closed_form()[0])).max() > 10


@pytest.mark.parametrize("temperature", [None, 4.0])
def test_detailed_balance_with_a_wrong_surrogate(temperature):
    """In equilibrium (x, x') and (x', x) have one law: E[f(x) g(x') - g(x) f(x')] = 0."""
    num_chains = 1500
    mean, covariance = closed_form()
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(2, num_chains, DIM, generator=generator, dtype=torch.float64)
    start, replicas = mean + noise[0] @ torch.linalg.cholesky(covariance).T, None
    kernel = CrankNicolson(num_chains, step=0.7)
    if temperature is not None:
        hot_mean, hot_covariance = closed_form(WRONG_OPERATOR, 0.2, temperature)
        replicas = hot_mean + noise[1] @ torch.linalg.cholesky(hot_covariance).T
        replicas, kernel = replicas[:, None], Tempered(num_chains, [temperature])
    kernel.freeze()
    chains = DelayedAcceptance([WRONG, EXACT], kernel, start, replicas=replicas, seed=2)
    flux = []
    for _ in range(10):
        before, after = chains.state.position, chains.step().position
        flux.append(before[:, 0] * after[:, 1] ** 3 - after[:, 0] * before[:, 1] ** 3)
        moved = (before != after).any(-1)
    per_chain = torch.stack(flux).mean(0)
    assert 0.2 < float(moved.double().mean()) < 1
    assert abs(float(per_chain.mean() / (per_chain.std() / num_chains**0.5))) < LIMIT


def two_modes(x):
    """Half at x_1 > 0, half at x_1 < 0, twelve standard deviations apart."""
    off = torch.cat([x[:, :1].abs() - 0.9, x[:, 1:]], 1)
    return -off.square().sum(-1) / (2 * 0.15**2)


def test_replicas_carry_chains_from_mode_to_mode():
    level, shares = Level(two_modes), {}
    start = torch.zeros(20, 7, 8, dtype=torch.float64)
    start[..., 0] = 0.9
    for name, kernel, hot in (
        ("tempered", Tempered(20, [2.0**k for k in range(1, 7)]), start[:, 1:]),
        ("alone", CrankNicolson(20), None),
    ):
        chains = DelayedAcceptance([level], kernel, start[:, 0], replicas=hot, seed=0)
        for _ in range(300):
            chains.step()
        chains.freeze()
        signs = torch.stack([(chains.step().position[:, 0] > 0) for _ in range(1500)], 1)
        shares[name] = signs.double().numpy()
    mean, ess = shares["tempered"].mean(), diagnostics.ess(shares["tempered"])
    assert ess > 100
    assert abs(mean - 0.5) < LIMIT * 0.5 / ess**0.5
    assert (shares["alone"].mean(1) > 0.99).mean() > 0.5


def test_replicas_have_the_tempered_law():
    draws = []
    start = torch.zeros(200, 2, DIM, dtype=torch.float64)
    kernel = Tempered(200, [4.0])
    chains = DelayedAcceptance([EXACT], kernel, start[:, 0], replicas=start[:, 1:], seed=3)
    for step in range(500):
        state = chains.step()
        if step == 200:
            chains.freeze()
        if step > 200:
            draws.append(state.replicas[:, 0])
    draws = torch.stack(draws, 1)
    mean, covariance = closed_form(temperature=4.0)
    assert abs(z_scores(draws, mean)).max() < LIMIT
    assert abs(z_scores(second_moments(draws), moments(mean, covariance))).max() < LIMIT


@pytest.mark.parametrize("informed", [False, True])
def test_moves_leave_the_prior_as_it_is(informed):
    """Without data every proposal is accepted and N(0, I) stays, pair by pair symmetric."""
    num_chains = 1500
    kernel = CrankNicolson(num_chains, step=0.6)
    if informed:
        mixing = torch.randn(12, 12, generator=torch.Generator().manual_seed(1)).double()
        kernel.inform(torch.linalg.qr(mixing)[0][:, :5], torch.tensor([0.5, 1, 10, 50, 500]))
    flat = Level(lambda x: x.new_zeros(len(x)))
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


def test_informed_directions_let_the_others_move():
    """Two directions of 40 are known to 1 %: without a word of it all steps are that small."""
    generator = torch.Generator().manual_seed(0)
    known = torch.linalg.qr(torch.randn(40, 2, generator=generator, dtype=torch.float64))[0]
    level = Level(lambda x: -(x @ known).square().sum(-1) / (2 * 0.01**2))
    ess = {}
    for informed in (False, True):
        kernel = CrankNicolson(20)
        chains = DelayedAcceptance([level], kernel, torch.zeros(20, 40).double(), seed=0)
        if informed:
            kernel.inform(known, torch.full((2,), 1e4, dtype=torch.float64))
        for _ in range(300):
            chains.step()
        chains.freeze()
        states = torch.stack([chains.step().position.mean(-1) for _ in range(400)], 1)
        ess[informed] = float(diagnostics.ess(states.numpy()))
    assert ess[True] > 10 * ess[False]


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
        return torch.where(x[:, 0] > 0.5, torch.nan, log_likelihood(OPERATOR)(x))

    draws, _ = run([WRONG, Level(broken, 5)], CrankNicolson(10), num_chains=10, num_steps=200)
    assert float(draws[..., 0].max()) <= 0.5


def test_bad_arguments():
    with pytest.raises(ValueError, match="`levels` must hold at least the exact"):
        DelayedAcceptance([], CrankNicolson(1), torch.zeros(1, 1), seed=0)
    with pytest.raises(ValueError, match=r"`levels\[0\].num_steps` must be at least 1"):
        DelayedAcceptance([Level(EXACT.log_likelihood, 0)], CrankNicolson(1), Y[None], seed=0)
    with pytest.raises(ValueError, match=r"`replicas` must have shape \(chains, 1, dim\)"):
        DelayedAcceptance([EXACT], Tempered(1, [2.0]), torch.zeros(1, DIM), seed=0)
    broken = Level(lambda x: torch.full((len(x),), torch.nan))
    with pytest.raises(ValueError, match="`position` must have a finite log likelihood"):
        DelayedAcceptance([broken], CrankNicolson(1), torch.zeros(1, DIM), seed=0)
    with pytest.raises(ValueError, match="`target_accept_prob`"):
        CrankNicolson(1, target_accept_prob=1.0)
    for temperatures in ([], [1.0], [3.0, 2.0]):
        with pytest.raises(ValueError, match="`temperatures` must increase and all be above 1"):
            Tempered(1, temperatures)
