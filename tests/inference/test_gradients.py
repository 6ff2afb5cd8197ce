"""Log density and gradient of all chains: under vmap, one by one, and against a closed form."""

import pytest
import torch

from inference import LogDensity
from inference.binding import bind
from inference.gradients import log_density_and_gradient, map_chains

METHODS = ["vectorized", "sequential"]
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 2, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(12, generator=GENERATOR, dtype=torch.float64)
W = torch.randn(4, 2, generator=GENERATOR, dtype=torch.float64)


def regression():
    """log p = −|w|²/2 − Σ (y − xw)²/2."""
    return LogDensity(
        log_prior=lambda p: -p["w"].square().sum() / 2,
        log_lik=lambda p, data: -(data[1] - data[0] @ p["w"]).square() / 2,
        params={"w": torch.zeros(2, dtype=torch.float64)},
    )


def evaluator(spec, method, data=None, batch_size=None):
    target = bind(spec, data, batch_size=batch_size, dtype=None, device=None)
    return log_density_and_gradient(target, method)


def by_hand(w, x, y, factor=1.0):
    residual = y - x @ w
    value = -w.square().sum() / 2 - factor * residual.square().sum() / 2
    return value, -w + factor * x.T @ residual


@pytest.mark.parametrize("method", METHODS)
def test_full_data(method):
    values, gradients = evaluator(regression(), method, (X, Y))(W, None)
    expected = [by_hand(w, X, Y) for w in W]
    torch.testing.assert_close(values, torch.stack([v for v, _ in expected]))
    torch.testing.assert_close(gradients, torch.stack([g for _, g in expected]))
    assert not values.requires_grad
    assert not gradients.requires_grad


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shared", [False, True])
def test_minibatches_are_each_chains_own_and_scaled(method, shared):
    rows = torch.tensor([[0, 1, 2], [3, 4, 5], [0, 6, 7], [9, 10, 11]])
    rows = rows[:1] if shared else rows
    evaluate = evaluator(regression(), method, (X, Y), batch_size=3)
    values, gradients = evaluate(W, (X[rows], Y[rows]))
    own = rows.expand(4, 3)
    expected = [by_hand(w, X[r], Y[r], factor=12 / 3) for w, r in zip(W, own, strict=True)]
    torch.testing.assert_close(values, torch.stack([v for v, _ in expected]))
    torch.testing.assert_close(gradients, torch.stack([g for _, g in expected]))


@pytest.mark.parametrize("method", METHODS)
def test_minibatch_gradients_average_to_the_full_one(method):
    """Over a partition of the rows the estimator's mean is the gradient: N/n is right."""
    evaluate = evaluator(regression(), method, (X, Y), batch_size=3)
    rows = torch.arange(12).reshape(4, 3)
    _, noisy = evaluate(W[:1].expand(4, 2), (X[rows], Y[rows]))
    _, full = evaluate(W[:1], None)
    torch.testing.assert_close(noisy.mean(0), full[0])


@pytest.mark.parametrize("method", METHODS)
def test_works_under_no_grad_and_does_not_touch_the_positions(method):
    start = W.clone()
    with torch.no_grad():
        _, gradients = evaluator(regression(), method, (X, Y))(start, None)
    torch.testing.assert_close(gradients[0], by_hand(W[0], X, Y)[1])
    assert torch.equal(start, W)
    assert not start.requires_grad


def wishart_like(p):
    """log det of [[1, x], [x, 1]], which is singular at |x| = 1 and has no factor beyond."""
    matrix = torch.stack([torch.ones_like(p["x"]), p["x"], p["x"], torch.ones_like(p["x"])])
    return torch.linalg.cholesky(matrix.reshape(2, 2)).diagonal().log().sum()


@pytest.mark.parametrize("method", METHODS)
def test_a_singular_matrix_harms_only_its_own_chain(method):
    spec = LogDensity(
        log_density=wishart_like,
        scale="sum",
        params={"x": torch.zeros((), dtype=torch.float64)},
    )
    x = torch.tensor([[0.5], [2.0], [-0.3]], dtype=torch.float64)
    values, gradients = evaluator(spec, method)(x, None)
    expected = (1 - x[[0, 2], 0] ** 2).log() / 2
    torch.testing.assert_close(values[[0, 2]], expected)
    assert values[1].isnan()
    assert gradients[1].isnan().all()


def branching(p):
    return -p["x"].square().sum() if p["x"].sum() > 0 else -2 * p["x"].square().sum()


def test_a_model_that_branches_is_told_to_run_chain_by_chain():
    spec = LogDensity(log_density=branching, scale="sum", params={"x": torch.zeros(1)})
    x = torch.tensor([[1.0], [-1.0]])
    with pytest.raises(RuntimeError, match="chain_method='sequential'"):
        evaluator(spec, "vectorized")(x, None)
    values, gradients = evaluator(spec, "sequential")(x, None)
    assert values.tolist() == [-1.0, -2.0]
    assert gradients.flatten().tolist() == [-2.0, 4.0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [KeyError("gone"), RuntimeError("my own message")])
def test_other_errors_of_a_model_are_left_alone(method, error):
    calls = []

    def breaks_at_the_second_call(p):
        calls.append(1)
        if len(calls) > 1:
            raise error
        return p["x"].sum()

    spec = LogDensity(
        log_density=breaks_at_the_second_call, scale="sum", params={"x": torch.ones(1)}
    )
    with pytest.raises(type(error), match=str(error)):
        evaluator(spec, method)(torch.ones(2, 1), None)


@pytest.mark.parametrize("method", METHODS)
def test_map_chains_stacks_tensors_and_dicts(method):
    x = torch.arange(6.0).reshape(3, 2)
    torch.testing.assert_close(map_chains(torch.sum, x, chain_method=method), x.sum(-1))
    pair = {"a": x, "b": x}
    found = map_chains(lambda v: {"s": v["a"] + v["b"]}, pair, chain_method=method)
    torch.testing.assert_close(found, {"s": 2 * x})


# -- recording -----------------------------------------------------------------------------


def counted():
    """A regression that counts how often Python runs it."""
    calls = []

    def log_lik(p, data):
        calls.append(1)
        return -(data[1] - data[0] @ p["w"]).square() / 2

    spec = regression()
    return calls, LogDensity(spec.log_prior, log_lik, params=spec.params)


@pytest.mark.parametrize("batch_size", [None, 3])
def test_many_calls_are_recorded_and_give_the_same_numbers(batch_size):
    calls, spec = counted()
    evaluate = evaluator(spec, "vectorized", (X, Y), batch_size=batch_size)
    generator = torch.Generator().manual_seed(1)
    before = len(calls)
    for _ in range(80):
        w = torch.randn(4, 2, generator=generator, dtype=torch.float64)
        rows = torch.randint(12, (4, 12 if batch_size is None else 3), generator=generator)
        batch = None if batch_size is None else (X[rows], Y[rows])
        values, gradients = evaluate(w, batch)
        factor = 1 if batch_size is None else 4
        own = [slice(None)] * 4 if batch_size is None else rows
        expected = [by_hand(a, X[r], Y[r], factor) for a, r in zip(w, own, strict=True)]
        torch.testing.assert_close(values, torch.stack([v for v, _ in expected]))
        torch.testing.assert_close(gradients, torch.stack([g for _, g in expected]))
    used = len(calls) - before
    assert 50 <= used < 60
    evaluate(w[:2], None if batch is None else tuple(x[:2] for x in batch))  # another shape
    assert len(calls) - before == used + 1


def test_a_target_with_a_memory_is_not_recorded():
    """A recording would repeat one of its answers for ever."""
    calls = []

    def log_density(p):
        calls.append(1)
        return len(calls) * p["x"].sum()

    spec = LogDensity(log_density=log_density, scale="sum", params={"x": torch.ones(1)})
    evaluate = evaluator(spec, "vectorized")
    gradients = [evaluate(torch.ones(2, 1), None)[1][0].item() for _ in range(80)]
    assert len(set(gradients)) == 80
