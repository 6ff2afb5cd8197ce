"""Quality on the UCI tables: needs PROBNET_DATA. No test rows are used before the last score.

Architectures are chosen by evidence on the training rows. `test_standard_splits` takes about
half an hour, `test_authors_protocol` ten minutes, `test_nuts_reference` half an hour.
"""

import os
import warnings

import numpy as np
import pytest
import torch

from inference import InferenceWarning
from probnet import Standardizer, metrics
from probnet.datasets import load_regression
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import InverseGamma, ScaleMixtureGP, compare

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif("PROBNET_DATA" not in os.environ, reason="PROBNET_DATA is not set"),
]
GRID = [(a, depth) for a in ("relu", "erf") for depth in (1, 2)]
NAMES = os.environ.get("PROBNET_TABLES", "boston,energy,yacht,concrete").split(",")
PRIOR = InverseGamma(2.0, 2.0)


def model(activation, depth, num_features):
    kernel = NNGPKernel(mlp(depth, activation), ard_num_dims=num_features)
    return ScaleMixtureGP(kernel, scale_prior=PRIOR, standardize=True)


def by_evidence(x, y):
    """The architecture with the largest evidence, and its plug-in posterior."""
    fits = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)
        for activation, depth in GRID:
            fitted = model(activation, depth, x.shape[1]).fit(x, y, progress=False)
            fits[activation, depth] = fitted
    table = compare({f"{a}{d}": p for (a, d), p in fits.items()})
    name = next(iter(table.log_evidence))
    return next(key for key in fits if f"{key[0]}{key[1]}" == name), table.best


def score(law, y):
    inside = metrics.interval_coverage(y, law, [0.9])[0]
    return -float(law.log_prob(y).mean()), metrics.rmse(y, law.mean), inside


def test_standard_splits():
    print()
    rows = []
    for name in NAMES:
        for split in range(10):
            table = load_regression(name, split)
            x, y = table.x_train, table.y_train
            (activation, depth), plug_in = by_evidence(x, y)
            with warnings.catch_warnings(record=True):
                warnings.simplefilter("always", InferenceWarning)
                laplace = model(activation, depth, x.shape[1]).fit(
                    x, y, method="laplace", seed=split, progress=False
                )
            scores = [score(p.predict(table.x_test), table.y_test) for p in (plug_in, laplace)]
            k = laplace.diagnostics["pareto_k"]
            rows.append((name, split, len(table.y_test), *scores, k))
            (a, b, c), (d, e, f) = scores
            print(
                f"{name:9}{split}  {activation}{depth}  plug-in NLL {a:7.3f} RMSE {b:.3f} "
                f"cov {c:.3f} | laplace NLL {d:7.3f} RMSE {e:.3f} cov {f:.3f}  k {k:.2f}",
                flush=True,
            )
    report(rows)


def report(rows):
    counts = np.array([r[2] for r in rows])
    pooled = [float((counts * [r[i][2] for r in rows]).sum() / counts.sum()) for i in (3, 4)]
    means = [float(np.mean([r[i][0] for r in rows])) for i in (3, 4)]
    print(f"pooled 90 % coverage: plug-in {pooled[0]:.4f}, laplace {pooled[1]:.4f}")
    print(f"mean NLL over splits: plug-in {means[0]:.4f}, laplace {means[1]:.4f}")
    print(f"k-hat above 0.7 in {sum(r[5] > 0.7 for r in rows)} of {len(rows)} fits")
    for name in NAMES:
        own = [r for r in rows if r[0] == name]
        first = [r for r in own if r[1] < 5]
        nll, cov = (np.mean([r[3][j] for r in first]) for j in (0, 2))
        both = [np.mean([r[i][0] for r in own]) for i in (3, 4)]
        print(
            f"{name:9} splits 0-4 plug-in NLL {nll:.3f} coverage {cov:.3f}; "
            f"splits 0-9 plug-in {both[0]:.3f}, laplace {both[1]:.3f}"
        )
    early = [r for r in rows if r[1] < 5]
    sizes = np.array([r[2] for r in early])
    for i, kind in ((3, "plug-in"), (4, "laplace")):
        cover = float((sizes * [r[i][2] for r in early]).sum() / sizes.sum())
        print(f"pooled coverage of splits 0-4, {kind}: {cover:.4f}")
    assert 0.87 <= pooled[1] <= 0.94
    assert means[1] <= means[0]


def test_authors_protocol():
    """80/10/10 with one test set; standardised NLL; the validation rows stay unused."""
    print()
    bounds = {"boston": 1.00, "concrete": 0.25, "energy": -1.7, "yacht": -2.0}
    for name, bound in bounds.items():
        found = []
        for seed in range(3):
            x, y, x_test, y_test = authors_split(name, seed)
            _, posterior = by_evidence(x, y)
            unit = Standardizer.fit(y).scale
            law = posterior.predict(x_test)
            found.append(-float(law.log_prob(y_test).mean()) - float(unit.log()))
        print(
            f"{name:9} standardised NLL {np.mean(found):.3f} ± {np.std(found):.3f}", flush=True
        )
        assert np.mean(found) <= bound


def authors_split(name, seed):
    table = load_regression(name, 0)
    root = os.path.join(os.environ["PROBNET_DATA"], "uci", name)
    data = np.loadtxt(os.path.join(root, "data.txt"))
    columns = np.loadtxt(os.path.join(root, "index_features.txt")).astype(int)
    target = np.loadtxt(os.path.join(root, "index_target.txt"), ndmin=1).astype(int)[0]
    order = np.random.RandomState(10).permutation(len(data))
    cut = int(0.9 * len(data))
    head, tail = order[:cut], order[cut:]
    head = np.random.RandomState(seed).permutation(head)
    train = head[: int(0.8 * len(data))]
    assert table.x_train.shape[1] == len(columns)
    pick = lambda rows: (torch.tensor(data[rows][:, columns]), torch.tensor(data[rows, target]))  # noqa: E731
    return *pick(train), *pick(tail)


@pytest.mark.parametrize("split", range(3))
@pytest.mark.parametrize("name", ["yacht", "boston"])
def test_nuts_reference(name, split):
    """Laplace with smoothed weights against NUTS on the same target."""
    table = load_regression(name, split)
    x, y = table.x_train, table.y_train
    own = model("erf", 1, x.shape[1])
    laplace = own.fit(x, y, method="laplace", seed=0, progress=False)
    nuts = own.fit(
        x, y, method="nuts", seed=0, progress=False,
        num_chains=2, num_warmup=150, num_samples=150,
    )  # fmt: skip
    laws = [p.predict(table.x_test) for p in (laplace, nuts)]
    (a, b, c), (d, e, f) = (score(law, table.y_test) for law in laws)
    gap = float(((laws[0].mean - laws[1].mean) / laws[1].stddev).abs().max())
    print(
        f"\n{name} {split}: laplace NLL {a:.3f} RMSE {b:.3f} cov {c:.3f}; nuts NLL {d:.3f} "
        f"RMSE {e:.3f} cov {f:.3f}; largest gap of means {gap:.2f} sd; {nuts.diagnostics}",
        flush=True,
    )
    assert abs(a - d) < 0.1
