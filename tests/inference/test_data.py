"""The user's data, and minibatches of it."""

import numpy as np
import pandas as pd
import pytest
import torch

from inference.data import BatchStream, Data, take_rows

CPU = torch.device("cpu")
X, Y = torch.arange(12.0).reshape(6, 2), torch.arange(6)


# -- structure -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "call"),
    [
        (X, lambda f: f(X)),
        ((X, Y), lambda f: f(X, Y)),
        ([X, Y], lambda f: f(X, Y)),
        ({"a": X, "b": Y}, lambda f: f(a=X, b=Y)),
        ({"x": X}, lambda f: f(x=X)),
        (None, lambda f: f()),
    ],
)
def test_a_model_is_called_as_the_structure_says(data, call):
    def record(*args, **kwargs):
        return [a.tolist() for a in args], {k: v.tolist() for k, v in kwargs.items()}

    assert Data(data).call(record) == call(record)


def test_rows_take_the_place_of_the_arrays_and_other_objects_stay():
    data = Data({"x": X, "name": "table", "y": Y, "none": None})
    assert data.leaves == (X, Y)
    rebuilt = data.rebuild((X[:2], Y[:2]))
    assert list(rebuilt) == ["x", "name", "y", "none"]
    assert rebuilt["name"] == "table"
    assert rebuilt["none"] is None
    assert torch.equal(rebuilt["x"], X[:2])
    assert torch.equal(rebuilt["y"], Y[:2])
    assert data.rebuild(None)["x"] is X


def test_floats_are_converted_and_integers_kept():
    data = Data((X, Y, X > 3, np.ones((6, 1)), pd.Series(range(6))), dtype=torch.float64)
    assert [t.dtype for t in data.leaves] == [
        torch.float64,
        torch.int64,
        torch.bool,
        torch.float64,
        torch.int64,
    ]
    assert Data((X, np.ones(6))).floating_dtype == torch.float64
    assert Data((X, Y)).floating_dtype == torch.float32
    assert Data(Y).floating_dtype is None


def test_arrays_are_copied_so_that_later_changes_do_not_matter():
    array = np.ones(3)
    array.flags.writeable = False
    assert Data(array).leaves[0].tolist() == [1, 1, 1]
    array = np.ones(3)
    data = Data(array)
    array[:] = 7
    assert data.leaves[0].tolist() == [1, 1, 1]


def test_description_names_shapes():
    assert Data((X, Y)).describe() == "data[0] (6, 2), data[1] (6,)"
    assert Data({"x": X}).describe() == "data['x'] (6, 2)"
    assert Data(None).describe() == "no arrays"


def test_rows_are_counted():
    assert Data((X, Y)).check_rows(None) == 6
    assert Data((X, Y)).check_rows(6) == 6


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ((X, Y[:5]), r"one row per example; got \{'data\[0\]': 6, 'data\[1\]': 5\}"),
        ((X, torch.tensor(1.0)), r"'data\[1\]': None"),
        ((X[:0], Y[:0]), "empty"),
        (None, "no array"),
        ("text", "no array"),
    ],
)
def test_rows_that_do_not_match_are_refused(data, match):
    with pytest.raises(ValueError, match=match):
        Data(data).check_rows(None)
    with pytest.raises(ValueError, match="6 rows but `num_data` is 7"):
        Data(X).check_rows(7)


# -- minibatches ---------------------------------------------------------------------------


def batches(chains, steps, *, num_data=10, batch_size=3, seed=0, shared=False):
    source = BatchStream(seed, chains, num_data, batch_size, shared=shared, device=CPU)
    return torch.stack([source.next() for _ in range(steps)])


def test_no_row_twice_in_an_epoch_and_the_rest_is_dropped():
    found = batches(range(4), 30).reshape(10, 3, 4, 3)  # epochs of three batches of three
    for epoch in found.movedim(2, 1).reshape(40, 9).tolist():
        assert len(set(epoch)) == 9
        assert set(epoch) <= set(range(10))


def test_every_row_is_seen_in_every_epoch_if_batches_fill_it():
    found = batches([0], 20, num_data=12).reshape(5, 12).sort(-1).values
    assert torch.equal(found, torch.arange(12).expand(5, 12))


def test_dropped_rows_change_from_epoch_to_epoch():
    """Each of 10 rows is dropped in a tenth of 2000 epochs: 200 ± 5·√(2000·0.1·0.9)."""
    found = batches([0], 6000).reshape(2000, 9)
    dropped = 2000 - torch.bincount(found.flatten(), minlength=10)
    assert (dropped - 200).abs().max() < 5 * np.sqrt(2000 * 0.1 * 0.9)


def test_successive_epochs_are_permuted_anew():
    found = batches([0], 8, num_data=12).reshape(2, 12)
    assert not torch.equal(found[0], found[1])


def test_chain_c_gets_the_same_rows_whoever_runs_beside_it():
    alone = batches([2], 50)[:, 0]
    assert torch.equal(alone, batches(range(5), 50)[:, 2])
    assert torch.equal(alone, batches([4, 2], 50)[:, 1])


def test_chains_and_seeds_have_their_own_order():
    found = batches(range(3), 10)
    assert not torch.equal(found[:, 0], found[:, 1])
    assert not torch.equal(found[:, 1], found[:, 2])
    assert not torch.equal(found[:, :1], batches([0], 10, seed=1))


def test_shared_batches_are_those_of_chain_zero():
    shared = batches([3, 4], 10, shared=True)
    assert shared.shape == (10, 1, 3)
    assert torch.equal(shared, batches([0], 10))


def test_rows_are_taken_chain_by_chain():
    rows = torch.tensor([[0, 5], [3, 3], [2, 1]])
    x, y = take_rows((X, Y), rows)
    assert x.shape == (3, 2, 2)
    for chain in range(3):
        assert torch.equal(x[chain], X[rows[chain]])
        assert torch.equal(y[chain], Y[rows[chain]])
