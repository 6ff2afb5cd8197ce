"""The ArviZ side: the schema, both majors of ArviZ, files, and what they cost."""

import os
import subprocess
import sys
import time
from pathlib import Path

import arviz
import arviz_base
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray

import inference
from inference import Draws
from inference.binding import bind

ARVIZ_1 = int(arviz.__version__.split(".")[0]) >= 1
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0])
Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0])


def schools(sigma, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, 5.0))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def outputs_of_rows(sigma, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("school", len(y)):
        pyro.sample(
            "y", dist.Normal(w, sigma[:, None]).to_event(1), obs=torch.stack([y, y], -1)
        )


@pytest.fixture(scope="module")
def sampled():
    """A short run with labels, warm-up and all its sample statistics."""
    with torch.random.fork_rng():
        return inference.sample(
            schools,
            (SIGMA, Y),
            num_chains=3,
            num_warmup=20,
            num_samples=15,
            step_size=0.5,
            keep_warmup=True,
            progress=False,
            coords={"school": list("ABCDE")},
        )


@pytest.fixture(scope="module")
def exact():
    """1600 independent draws of the schools' normal posterior, as four chains."""
    precision = np.zeros((6, 6))
    precision[0, 0] = 1 / 25 + 5 / 25
    precision[0, 1:] = precision[1:, 0] = -1 / 25
    precision[1:, 1:] = np.diag(1 / 25 + 1 / SIGMA**2)
    covariance = np.linalg.inv(precision)
    mean = covariance @ np.concatenate([[0], Y / SIGMA**2])
    rng = np.random.default_rng(0)
    values = rng.multivariate_normal(mean, covariance, size=(4, 400))
    draws = Draws(
        draws={"mu": values[..., 0], "theta": values[..., 1:]},
        sample_stats={"diverging": np.zeros((4, 400), dtype=bool)},
        attrs={"method": "exact", "nested_parameters": False},
        dims={"theta": ["school"]},
        coords={"school": list("ABCDE")},
        _target=bind(schools, (SIGMA, Y), batch_size=None, dtype=None, device=None),
    )
    return draws, mean, np.sqrt(np.diag(covariance))


# ----------------------------------------------------------------------------------- the schema


def test_the_tree_conforms_to_the_arviz_schema(sampled):
    tree = sampled.to_datatree(log_likelihood=True, posterior_predictive=True)
    assert isinstance(tree, xarray.DataTree)
    assert set(tree.children) == {
        "posterior",
        "sample_stats",
        "warmup_posterior",
        "log_likelihood",
        "posterior_predictive",
        "observed_data",
    }
    for name, node in tree.children.items():
        for attribute in ("created_at", "inference_library", "inference_library_version"):
            assert isinstance(node.attrs[attribute], str)
        leading = () if name == "observed_data" else ("chain", "draw")
        for variable, array in node.data_vars.items():
            assert array.dims[: len(leading)] == leading
            assert variable not in array.dims
            assert set(array.dims) == set(array.coords)
        if leading:
            assert node.coords["chain"].to_numpy().tolist() == [0, 1, 2]
    assert tree["posterior"].sizes == {"chain": 3, "draw": 15, "school": 5}
    assert tree["warmup_posterior"].sizes["draw"] == 20
    assert set(tree["sample_stats"].data_vars) >= {"lp", "step_size", "temperature"}
    np.testing.assert_array_equal(tree["posterior/theta"], sampled.draws["theta"])
    np.testing.assert_array_equal(tree["observed_data/y"], Y)


def test_plates_and_the_users_coordinates_label_every_group(sampled):
    tree = sampled.to_datatree(log_likelihood=True, posterior_predictive=True)
    for path in (
        "posterior/theta",
        "log_likelihood/y",
        "posterior_predictive/y",
        "observed_data/y",
    ):
        assert tree[path].dims[-1] == "school"
        assert tree[path].coords["school"].to_numpy().tolist() == list("ABCDE")
    assert sampled.dims == {"mu": [], "theta": ["school"]}


def test_the_users_names_replace_those_of_plates():
    def run(**labels):
        return inference.sample(
            schools,
            (SIGMA, Y),
            num_chains=1,
            num_warmup=0,
            num_samples=2,
            progress=False,
            **labels,
        )

    draws = run(dims={"theta": ["place"]}, coords={"place": range(5)})
    assert draws.to_datatree()["posterior/theta"].dims == ("chain", "draw", "place")
    assert run().to_datatree()["posterior/theta"].coords["school"].to_numpy().tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_event_axes_of_an_observation_are_not_those_of_its_log_likelihood():
    target = bind(outputs_of_rows, (SIGMA, Y), batch_size=None, dtype=None, device=None)
    w = np.zeros((1, 2, 2))
    draws = Draws(draws={"w": w}, sample_stats={}, attrs={}, _target=target)
    tree = draws.to_datatree(log_likelihood=True, posterior_predictive=True)
    assert tree["log_likelihood/y"].dims == ("chain", "draw", "school")
    assert tree["posterior_predictive/y"].dims == ("chain", "draw", "school", "y_dim_1")
    assert tree["observed_data/y"].dims == ("school", "y_dim_1")


def test_further_groups_are_taken_by_arvizs_rules(sampled):
    tree = sampled.to_datatree(
        groups={
            "predictions": {"y": np.zeros((3, 15, 2))},
            "constant_data": {"sigma": SIGMA},
            "predictions_constant_data": {"sigma": SIGMA[:2]},
        }
    )
    assert tree["predictions/y"].dims == ("chain", "draw", "y_dim_0")
    assert tree["constant_data/sigma"].dims == ("sigma_dim_0",)
    assert tree["predictions_constant_data/sigma"].shape == (2,)
    with pytest.raises(
        ValueError, match=r"'y' in group 'predictions' must start with the axes"
    ):
        sampled.to_datatree(groups={"predictions": {"y": np.zeros(3)}})


def test_slashes_in_names_become_dots(tmp_path):
    """Pyro's autoname writes `scope/site`; a slash divides groups in a netCDF file."""
    draws = Draws(draws={"net/w": np.zeros((1, 2, 3))}, sample_stats={}, attrs={})
    assert draws.to_datatree()["posterior"]["net.w"].dims == ("chain", "draw", "net.w_dim_0")
    assert inference.load(draws.save(tmp_path / "x.nc")).draws["net.w"].shape == (1, 2, 3)


WITHOUT_ARVIZ = """
import sys


class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("arviz"):
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Block())
import numpy as np
import inference

heavy = {"arviz", "xarray", "pandas", "matplotlib"} & set(sys.modules)
draws = inference.Draws(
    draws={"w": np.zeros((2, 3, 4))},
    sample_stats={"diverging": np.zeros((2, 3), dtype=bool)},
    attrs={},
)
tree = draws.to_datatree()
print(type(tree).__module__.partition(".")[0], sorted(tree.children), sorted(heavy))
print(inference.load(draws.save(sys.argv[1])).draws["w"].shape)
try:
    draws.to_arviz()
except ImportError as error:
    print(error)
"""


def test_the_tree_and_the_file_need_no_arviz(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_ARVIZ, str(tmp_path / "x.nc")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(inference.__file__).parents[1])},
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        "xarray ['posterior', 'sample_stats'] []",
        "(2, 3, 4)",
        "arviz is blocked",
    ]


# ------------------------------------------------------------------------- ArviZ, as installed


def test_to_arviz_gives_what_the_installed_arviz_works_on(sampled):
    data = sampled.to_arviz(log_likelihood=True)
    assert type(data).__name__ == ("DataTree" if ARVIZ_1 else "InferenceData")
    groups = set(data.children) if ARVIZ_1 else set(data.groups())
    assert {"posterior", "sample_stats", "log_likelihood", "warmup_posterior"} <= groups
    theta = (data["posterior"] if ARVIZ_1 else data.posterior)["theta"]
    np.testing.assert_array_equal(theta, sampled.draws["theta"])


def test_the_summary_is_right_and_labelled(exact):
    draws, mean, sd = exact
    for table in (
        draws.summary(round_to="none"),
        arviz.summary(draws.to_arviz(), round_to="none"),
    ):
        assert list(table.index) == ["mu", *(f"theta[{s}]" for s in "ABCDE")]
        assert np.all(np.abs(table["mean"] - mean) < 5 * sd / 1600**0.5)
        assert np.all(np.abs(table["sd"] / sd - 1) < 5 / 3200**0.5)
        rhat = table["r_hat"]
        assert np.all(rhat.astype(float) < 1.01)
        assert np.all(table["ess_bulk"].astype(float) > 1000)
    assert list(draws.summary(var_names=["mu"]).index) == ["mu"]


def test_loo_is_near_the_exact_leave_one_out_density(exact):
    """Each school's law given the others is normal; 1600 draws give it to about 0.05."""
    draws, _, _ = exact
    found = arviz.loo(draws.to_arviz(log_likelihood=True), pointwise=True)
    expected = [_left_out(i) for i in range(5)]
    pointwise = found.elpd_i if ARVIZ_1 else found.loo_i
    np.testing.assert_allclose(pointwise, expected, atol=0.05)


def _left_out(i):
    """log p(y_i | the others): y_i ~ N(mu, 25 + σ_i²), mu normal given the others."""
    others = np.delete(np.arange(5), i)
    weight = 1 / (25 + SIGMA[others] ** 2)
    variance = 1 / (1 / 25 + weight.sum())
    mean = variance * (weight * Y[others]).sum()
    total = variance + 25 + SIGMA[i] ** 2
    return -0.5 * (np.log(2 * np.pi * total) + (Y[i] - mean) ** 2 / total)


def test_arviz_opens_a_saved_file(exact, tmp_path):
    draws, _, _ = exact
    path = draws.save(tmp_path / "x.nc", log_likelihood=True, posterior_predictive=True)
    data = arviz.from_netcdf(path)
    posterior = data["posterior"] if ARVIZ_1 else data.posterior
    np.testing.assert_array_equal(posterior["theta"], draws.draws["theta"])
    assert posterior["theta"].dims == ("chain", "draw", "school")
    stats = data["sample_stats"] if ARVIZ_1 else data.sample_stats
    assert stats["diverging"].dtype == bool
    assert len(arviz.summary(data)) == 6
    assert np.isfinite(arviz.loo(data).elpd if ARVIZ_1 else arviz.loo(data).elpd_loo)


def test_a_file_that_arviz_wrote_opens_as_draws(exact, tmp_path):
    draws, _, _ = exact
    draws.to_arviz().to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    loaded = inference.load(tmp_path / "x.nc")
    np.testing.assert_array_equal(loaded.draws["theta"], draws.draws["theta"])
    assert loaded.dims["theta"] == ["school"]
    assert loaded.attrs["method"] == "exact"


# ---------------------------------------------------------- arviz-base: DataTree on Python 3.11


def test_arviz_base_takes_the_tree_as_its_own(exact):
    draws, mean, _ = exact
    tree = draws.to_datatree(log_likelihood=True)
    assert arviz_base.convert_to_datatree(tree) is tree
    combined = arviz_base.extract(tree, num_samples=50, random_seed=0)
    assert combined.sizes["sample"] == 50
    everything = arviz_base.extract(tree)
    assert abs(float(everything["mu"].mean()) - mean[0]) < 0.5
    table = arviz_base.dataset_to_dataframe(arviz_base.convert_to_dataset(tree))
    assert table.shape == (1600, 6)
    assert list(table.columns) == ["mu", *(f"theta[{s}]" for s in "ABCDE")]


def test_the_tree_equals_the_one_arviz_base_builds(exact):
    draws, _, _ = exact
    ours = draws.to_datatree()
    theirs = arviz_base.from_dict(
        {"posterior": dict(draws.draws), "sample_stats": dict(draws.sample_stats)},
        coords={"school": list("ABCDE")},
        dims={"theta": ["school"]},
    )
    for group in ("posterior", "sample_stats"):
        xarray.testing.assert_equal(ours[group].to_dataset(), theirs[group].to_dataset())


def test_arviz_base_opens_a_saved_file(exact, tmp_path):
    draws, _, _ = exact
    tree = arviz_base.convert_to_datatree(str(draws.save(tmp_path / "x.nc")))
    np.testing.assert_array_equal(tree["posterior/theta"], draws.draws["theta"])
    assert tree["sample_stats/diverging"].dtype == bool


# ------------------------------------------------------------------------------------ the costs


def cpu_seconds(action, repeats=3):
    best = np.inf
    for _ in range(repeats):
        started = time.process_time()
        action()
        best = min(best, time.process_time() - started)
    return best


def test_export_of_many_draws_takes_no_time():
    """16 x 2000 x 500 float32 draws in half a CPU second: it copies nothing."""
    w = np.zeros((16, 2000, 500), dtype=np.float32)
    draws = Draws(draws={"w": w}, sample_stats={"lp": np.zeros((16, 2000))}, attrs={})
    draws.to_arviz()  # imports
    assert cpu_seconds(draws.to_arviz) <= 0.5
    assert np.shares_memory(draws.to_datatree()["posterior/w"].to_numpy(), w)


@pytest.mark.skipif(ARVIZ_1, reason="ArviZ 1.x does not compress by default")
def test_saving_costs_a_fraction_of_arvizs_compressed_default(tmp_path):
    w = np.random.default_rng(0).normal(size=(16, 500, 500)).astype(np.float32)
    draws = Draws(draws={"w": w}, sample_stats={}, attrs={})
    data = draws.to_arviz()
    ours = cpu_seconds(lambda: draws.save(tmp_path / "ours.nc"))
    theirs = cpu_seconds(lambda: data.to_netcdf(tmp_path / "theirs.nc"), repeats=1)
    assert ours <= 0.25 * theirs
    assert (tmp_path / "ours.nc").stat().st_size < 1.01 * w.nbytes + 200_000
