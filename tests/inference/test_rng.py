"""Random streams: a function of (seed, purpose, chain) and of nothing else."""

import random

import numpy as np
import pytest
import torch
from scipy import stats

from inference.rng import NormalStream, Stream, generator, scoped_seed, stream_seed

CPU = torch.device("cpu")


def stream(chains, dim=3, seed=0, purpose=Stream.NOISE, dtype=torch.float64):
    return NormalStream(seed, purpose, chains, dim, dtype=dtype, device=CPU)


def take(source, steps):
    return torch.stack([source.next() for _ in range(steps)])


def test_seeds_of_streams_are_distinct():
    seeds = {
        stream_seed(seed, purpose, chain)
        for seed in range(20)
        for purpose in Stream
        for chain in range(50)
    }
    assert len(seeds) == 20 * len(Stream) * 50
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_in_every_version():
    """A changed hash would silently change every user's draws."""
    assert stream_seed(0, Stream.NOISE, 0) == 8897364151550420695
    assert stream_seed(7, Stream.BATCH, 3) == 8948521169490412876
    assert (Stream.INIT, Stream.MOMENTUM, Stream.NOISE, Stream.BATCH) == (0, 1, 2, 3)
    assert (Stream.ACCEPT, Stream.TRAJECTORY) == (20, 21)
    assert len(Stream.__members__) == len(Stream)  # no two purposes share a number


def test_generator_starts_its_stream_afresh():
    one, two = (generator(1, Stream.INIT, 4) for _ in range(2))
    assert torch.equal(torch.rand(5, generator=one), torch.rand(5, generator=two))
    other = generator(1, Stream.INIT, 5)
    assert not torch.equal(
        torch.rand(5, generator=generator(1, Stream.INIT, 4)), torch.rand(5, generator=other)
    )


@pytest.mark.parametrize("dim", [1, 3, 1000, 40_000])
def test_chain_c_gets_the_same_numbers_whoever_runs_beside_it(dim):
    """Alone, among others, in another order: bit-equal, over several blocks of steps."""
    steps = 150 if dim <= 3 else 20 if dim == 1000 else 2
    alone = take(stream([2], dim), steps)[:, 0]
    among = take(stream(range(5), dim), steps)[:, 2]
    shuffled = take(stream([4, 2, 0], dim), steps)[:, 1]
    assert torch.equal(alone, among)
    assert torch.equal(alone, shuffled)


def test_streams_differ_by_chain_seed_and_purpose():
    base = take(stream([0]), 4)
    for other in (stream([1]), stream([0], seed=1), stream([0], purpose=Stream.MOMENTUM)):
        assert not torch.isclose(base, take(other, 4)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_standard_normal(dtype):
    """Kolmogorov–Smirnov over 60 000 values at the fixed seed, and no correlation in time."""
    values = take(stream(range(4), dim=50, dtype=dtype), 300)
    assert values.dtype == dtype
    assert values.shape == (300, 4, 50)
    assert stats.kstest(values.double().flatten(), "norm").pvalue > 1e-3
    lagged = np.corrcoef(values[:-1].flatten(), values[1:].flatten())[0, 1]
    assert abs(lagged) < 4 / np.sqrt(values.numel())


def test_scoped_seed_leaves_every_global_generator_as_it_was():
    def everything():
        numpy_state = np.random.get_state()  # noqa: NPY002 - the global state is the point
        return torch.get_rng_state().tolist(), numpy_state[1].tolist(), random.getstate()

    def draw():
        return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002

    before = everything()
    with scoped_seed(3):
        first = draw()
    assert everything() == before
    second = []

    def fail_inside():
        with scoped_seed(3):
            second.append(draw())
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert everything() == before
    assert second == [first]
    with scoped_seed(2**62 + 5):
        third = draw()
    assert not set(first) & set(third)
