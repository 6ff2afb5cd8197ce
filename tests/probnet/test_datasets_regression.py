"""Tables: what is on disk is what is loaded, splits are fixed, mistakes are named."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes

from probnet.datasets import load_regression, regression_tables

DATA = np.array(
    [[1.0, 10.0, 100.0], [2.0, 20.0, 200.0], [3.0, 30.0, 300.0], [4.0, 50.0, 400.0]]
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A table `toy` of four rows with two splits, its target in the first column."""
    monkeypatch.setenv("PROBNET_DATA", str(tmp_path))
    toy = tmp_path / "uci" / "toy"
    toy.mkdir(parents=True)
    np.savetxt(toy / "data.txt", DATA)
    np.savetxt(toy / "index_features.txt", [2, 1], fmt="%d")
    np.savetxt(toy / "index_target.txt", [0], fmt="%d")
    for split, test in enumerate([[3], [0]]):
        np.savetxt(toy / f"index_train_{split}.txt", [i for i in range(4) if i not in test])
        np.savetxt(toy / f"index_test_{split}.txt", test, fmt="%d")
    return toy


def test_a_table_is_read_as_it_is_written(folder):
    table = load_regression("toy", split=1)
    assert table.x_train.tolist() == DATA[1:, [2, 1]].tolist()
    assert table.y_train.tolist() == [2, 3, 4]
    assert table.x_test.tolist() == [[100, 10]]
    assert table.y_test.tolist() == [1]
    assert table.feature_names == ("x0", "x1")
    assert table.x_train.dtype == table.y_test.dtype == torch.float64


def test_standardisers_know_the_training_rows_only(folder):
    table = load_regression("toy", split=0)
    torch.testing.assert_close(table.x_standardizer.mean, table.x_train.mean(0))
    torch.testing.assert_close(table.y_standardizer.scale, table.y_train.std(correction=0))
    np.savetxt(folder / "data.txt", np.vstack([DATA[:3], 1e6 * DATA[3:]]))  # the test row
    moved = load_regression("toy", split=0)
    assert torch.equal(moved.x_standardizer.mean, table.x_standardizer.mean)
    assert not torch.equal(moved.x_test, table.x_test)


def test_several_targets_stay_a_matrix(folder):
    np.savetxt(folder / "index_target.txt", [0, 1], fmt="%d")
    np.savetxt(folder / "index_features.txt", [2], fmt="%d")
    table = load_regression("toy")
    assert table.y_train.shape == (3, 2)
    assert table.x_train.shape == (3, 1)


def test_every_table_of_the_folder_is_found(folder):
    other = folder.parent / "another"
    other.mkdir()
    np.savetxt(other / "data.txt", DATA)
    assert regression_tables() == {"diabetes": 20, "another": 0, "toy": 2}


def test_the_bundled_table_needs_no_folder(monkeypatch):
    monkeypatch.delenv("PROBNET_DATA", raising=False)
    assert regression_tables() == {"diabetes": 20}
    table = load_regression()
    raw = load_diabetes(scaled=False)
    assert table.feature_names == tuple(raw.feature_names)
    rows = np.vstack([table.x_train, table.x_test])
    assert rows.shape == (442, 10)
    # in the units of the source: ages are whole years, not scaled with all rows
    assert table.x_test[:, 0].min() >= 19
    assert sorted(map(tuple, rows)) == sorted(map(tuple, raw.data))
    assert sorted(np.r_[table.y_train, table.y_test]) == sorted(raw.target)


def test_bundled_splits_differ_but_never_change():
    first, again, second = (load_regression(split=s) for s in (0, 0, 1))
    assert torch.equal(first.x_test, again.x_test)
    assert first.x_test.shape == second.x_test.shape == (44, 10)
    assert not torch.equal(first.y_test, second.y_test)
    assert first.y_test[:4].tolist() == [75, 129, 55, 92]


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (None, "environment variable PROBNET_DATA is not set.*index_train_"),
        ("", "environment variable PROBNET_DATA is not set"),
        ("/nowhere", "'/nowhere', which has no folder `uci`"),
    ],
)
def test_absent_data_are_explained(monkeypatch, variable, message):
    monkeypatch.delenv("PROBNET_DATA", raising=False)
    if variable is not None:
        monkeypatch.setenv("PROBNET_DATA", variable)
    with pytest.raises(FileNotFoundError, match=message):
        load_regression("boston")


@pytest.mark.parametrize("name", ["toi", "../toy", ""])
def test_an_unknown_name_lists_the_known_ones(folder, name):
    with pytest.raises(ValueError, match=r"`name` must be one of \['diabetes', 'toy'\]"):
        load_regression(name)


def test_an_unknown_split_lists_the_known_ones(folder):
    with pytest.raises(ValueError, match=r"splits of table 'toy', \[0, 1\]; got 2"):
        load_regression("toy", split=2)
    with pytest.raises(ValueError, match=r"splits of table 'diabetes'.*got 20"):
        load_regression(split=20)
    with pytest.raises(TypeError, match="`split` must be an integer"):
        load_regression(split=0.5)


def change(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda folder: (folder / "index_test_0.txt").unlink(),
            FileNotFoundError,
            "is missing",
        ),
        (change("data.txt", "1 2 3\n4 5\n"), ValueError, "not a table of numbers"),
        (
            change("data.txt", "1 2 3\n1 nan 3\n3 4 5\n6 7 8\n"),
            ValueError,
            "`x` holds 1 non-fin",
        ),
        (change("index_train_0.txt", "0\n4\n"), ValueError, "distinct rows, 0 to 3; got 4"),
        (change("index_train_0.txt", "0\n0.5\n"), ValueError, "distinct rows.*got 0.5"),
        (change("index_train_0.txt", "0\n0\n"), ValueError, "distinct rows"),
        (change("index_features.txt", "3\n"), ValueError, "distinct columns, 0 to 2; got 3"),
        (
            change("index_train_0.txt", "0\n3\n"),
            ValueError,
            "1 rows for training and for testing",
        ),
    ],
)
def test_files_that_contradict_each_other_are_named(folder, damage, error, message):
    damage(folder)
    with pytest.raises(error, match=message):
        load_regression("toy")


@pytest.mark.skipif(
    not Path(os.environ.get("PROBNET_DATA") or "/nowhere", "uci").is_dir(),
    reason="needs UCI tables: the environment variable PROBNET_DATA names no folder with `uci`",
)
def test_standard_tables_load_with_all_their_splits():
    tables = regression_tables()
    assert len(tables) > 1
    for name, count in tables.items():
        for split in {0, count - 1}:
            table = load_regression(name, split)
            total = len(table.y_train) + len(table.y_test)
            assert len(table.y_train) == round(0.9 * total)
            z = table.x_standardizer.transform(table.x_train)
            assert z.mean(0).abs().max() < 1e-8
