"""`Draws`: frozen, predictions in a stream, likelihood and prediction against closed forms."""

import dataclasses
import os
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray
from scipy import stats

import inference
from inference import Draws, LogDensity
from inference.binding import bind

FLOAT = torch.float64


def some_draws(**changes):
    rng = np.random.default_rng(0)
    return Draws(
        **{
            "draws": {
                "layer.w": rng.normal(size=(2, 7, 3)),
                "layer.b": rng.normal(size=(2, 7)),
                "s": rng.gamma(2.0, size=(2, 7, 2, 2)).astype(np.float32),
            },
            "sample_stats": {
                "lp": rng.normal(size=(2, 7)),
                "diverging": rng.random((2, 7)) < 0.3,
                "n_steps": rng.integers(1, 9, size=(2, 7)),
            },
            "attrs": {
                "method": "nuts",
                "seed": 3,
                "wall_time": 0.5,
                "options": {"step_size": 0.1, "full_mass": True},
                "interrupted": False,
                "nested_parameters": True,
                "versions": None,
            },
            "dims": {"layer.w": ["feature"], "layer.b": [], "s": ["row", "column"]},
            "coords": {"feature": ["a", "b", "c"], "row": [10, 20]},
            **changes,
        }
    )


# -------------------------------------------------------------------------------------- frozen


def test_nothing_in_draws_can_be_changed():
    draws = some_draws(
        warmup={"layer.b": np.zeros((2, 3))},
        optimization={"elbo": np.zeros(4)},
        state={"position": torch.zeros(2, 8)},
    )
    for field in dataclasses.fields(draws):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(draws, field.name, None)
        mapping = getattr(draws, field.name)
        if mapping is not None:
            with pytest.raises(TypeError, match="does not support item assignment"):
                mapping["new"] = 1
    for arrays in (draws.draws, draws.sample_stats, draws.warmup, draws.optimization):
        for array in arrays.values():
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_the_number_of_chains_and_draws_is_that_of_the_arrays():
    draws = some_draws()
    assert (draws.num_chains, draws.num_samples, draws.variational) == (2, 7, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": {"w": ["feature"]}}, r"`dims` names 'w', not among \['layer.b', 'layer.w'"),
        ({"dims": {"s": ["row"]}}, r"`dims\['s'\]` must name 2 axes \(shape \(2, 2\)\)"),
        ({"dims": {"layer.w": ["s"]}}, "dimension 's' of 'layer.w' is named like a variable"),
        ({"dims": {"layer.w": ["draw"]}}, "none 'chain' or 'draw'"),
        ({"dims": {"s": ["row", "row"]}}, "must name every axis differently"),
        (
            {"dims": {"s": ["k", "l"], "layer.w": ["k"]}},
            "'k' to axes of different lengths: 2 in 's', 3 in 'layer.w'",
        ),
        (
            {"coords": {"feature": ["a", "b"]}},
            r"`coords\['feature'\]` has 2 entries, but axis 'feature' of 'layer.w' has 3",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        some_draws(**changes)


# ------------------------------------------------------------------------------------- predict


def affine(p):
    return {"mean": p["layer"]["w"] * p["layer"]["b"], "total": p["s"].sum()}


@pytest.mark.parametrize("batch_size", [1, 3, 7, 14, 1000])
@pytest.mark.parametrize("vectorized", [True, False])
def test_predict_is_a_loop_over_draws_for_any_batch_size(batch_size, vectorized):
    draws = some_draws()
    found = draws.predict(affine, batch_size=batch_size, vectorized=vectorized)
    assert {name: a.shape for name, a in found.items()} == {"mean": (2, 7, 3), "total": (2, 7)}
    for c in range(2):
        for d in range(7):
            one = {
                "layer": {n: torch.tensor(draws.draws[f"layer.{n}"][c, d]) for n in "wb"},
                "s": torch.tensor(draws.draws["s"][c, d]),
            }
            for name, expected in affine(one).items():
                np.testing.assert_allclose(found[name][c, d], expected, rtol=1e-6)


def test_predict_evaluates_no_more_draws_at_once_than_asked():
    sizes = []

    class Watch(torch.autograd.Function):
        """Sees the true batch under vmap."""

        generate_vmap_rule = False

        @staticmethod
        def forward(b):
            return b.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def vmap(info, in_dims, b):
            sizes.append(info.batch_size)
            return b.clone(), 0

    some_draws().predict(lambda p: Watch.apply(p["layer"]["b"]), batch_size=5)
    assert sizes == [5, 5, 4]


def test_predict_returns_an_array_for_a_tensor():
    found = some_draws().predict(lambda p: p["s"][0])
    assert isinstance(found, np.ndarray)
    assert found.shape == (2, 7, 2)
    assert found.dtype == np.float32


def test_predict_goes_draw_by_draw_where_a_function_branches_on_values():
    def sign(p):
        return torch.tensor(1.0 if p["layer"]["b"] > 0 else -1.0)

    draws = some_draws()
    assert np.array_equal(draws.predict(sign), np.sign(draws.draws["layer.b"]))


def test_predict_does_not_hide_the_functions_own_error():
    def broken(p):
        raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        some_draws().predict(broken)
    with pytest.raises(RuntimeError, match=r"shape|size"):
        some_draws().predict(lambda p: p["layer"]["w"] @ torch.zeros(5, dtype=FLOAT))


def test_names_of_a_pyro_model_are_not_split_at_their_dots():
    draws = some_draws(attrs={"nested_parameters": False})
    assert draws.predict(lambda p: p["layer.w"].sum()).shape == (2, 7)


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError)]
)
def test_the_batch_size_of_predict_is_checked(size, error):
    with pytest.raises(error, match="`batch_size`"):
        some_draws().predict(affine, batch_size=size)


# ------------------------------------------ log-likelihood and prediction against closed forms

Y = np.random.default_rng(1).normal(0.8, 0.5, size=40)
POSTERIOR_VAR = 1 / (1 + 40 / 0.25)
POSTERIOR_MEAN = POSTERIOR_VAR * Y.sum() / 0.25


def normal_model(y):
    """m ~ N(0, 1), y_i ~ N(m, 0.5²): normal posterior and normal predictive law."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 0.5), obs=y)


def exact_draws(chains=2, count=400, **options):
    m = np.random.default_rng(2).normal(POSTERIOR_MEAN, POSTERIOR_VAR**0.5, (chains, count))
    target = bind(normal_model, Y, batch_size=None, dtype=None, device=None)
    attrs = {"nested_parameters": False}
    return Draws(draws={"m": m}, sample_stats={}, attrs=attrs, _target=target, **options)


def test_the_log_likelihood_is_that_of_every_row_under_every_draw():
    draws = exact_draws(count=30)
    found = draws.log_likelihood(batch_size=7)
    assert set(found) == {"y"}
    expected = stats.norm(draws.draws["m"][..., None], 0.5).logpdf(Y)
    np.testing.assert_allclose(found["y"], expected, rtol=1e-12)
    new = draws.log_likelihood(Y[:3] + 1)["y"]
    np.testing.assert_allclose(
        new, stats.norm(draws.draws["m"][..., None], 0.5).logpdf(Y[:3] + 1)
    )


def test_the_averaged_likelihood_of_new_data_is_the_predictive_density():
    """Of 800 exact draws, within five standard errors of a mean of exp(log-likelihood)."""
    new = np.array([-0.5, 0.8, 1.9])
    density = np.exp(exact_draws().log_likelihood(new)["y"]).reshape(-1, 3)
    expected = stats.norm(POSTERIOR_MEAN, (POSTERIOR_VAR + 0.25) ** 0.5).pdf(new)
    assert np.all(np.abs(density.mean(0) - expected) < 5 * density.std(0) / 800**0.5)


def test_posterior_predictive_draws_have_the_moments_of_the_predictive_law():
    """Rows of one draw share m: 80 draws of 400 rows each, by their mean and total variance."""
    draws = exact_draws(chains=2, count=40)
    y = draws.posterior_predictive(np.zeros(400), seed=1)["y"]
    assert y.shape == (2, 40, 400)
    noise = y - draws.draws["m"][..., None]
    assert abs(noise.mean()) < 5 * 0.5 / noise.size**0.5
    assert abs(noise.var() / 0.25 - 1) < 5 * (2 / noise.size) ** 0.5
    assert stats.kstest(noise.ravel() / 0.5, "norm").pvalue > 1e-3
    spread = (POSTERIOR_VAR / 80 + 0.25 / noise.size) ** 0.5
    assert abs(y.mean() - POSTERIOR_MEAN) < 5 * spread


def test_posterior_predictive_depends_on_the_seed_alone():
    draws = exact_draws(count=5)
    first = draws.posterior_predictive(seed=4)["y"]
    assert first.shape == (2, 5, 40)
    assert np.array_equal(first, draws.posterior_predictive(seed=4)["y"])
    other = draws.posterior_predictive(seed=5)["y"]
    assert not np.any(first == other)
    assert len(np.unique(first)) == first.size  # no draw repeats another's noise


def test_random_streams_of_others_are_left_alone():
    """The guard in tests/conftest.py compares the global states; here their next numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        exact_draws(count=3).posterior_predictive()
        assert torch.equal(torch.rand(3), expected)


def test_discrete_observations_can_be_predicted():
    def model(y):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.array([0.0, 2.0, 3.0])
    target = bind(model, y, batch_size=None, dtype=None, device=None)
    rate = np.full((1, 50), 3.0)
    draws = Draws(draws={"rate": rate}, sample_stats={}, attrs={}, _target=target)
    found = draws.posterior_predictive()["y"]
    assert np.array_equal(found, found.round())
    assert abs(found.mean() - 3) < 5 * (3 / found.size) ** 0.5
    expected = stats.poisson(3.0).logpmf(y)
    np.testing.assert_allclose(draws.log_likelihood()["y"][0, 0], expected)


def test_a_log_density_has_a_likelihood_but_no_way_to_make_data():
    spec = LogDensity(
        lambda p: -(p["m"] ** 2),
        lambda p, y: dist.Normal(p["m"], 0.5).log_prob(y),
        {"m": torch.zeros((), dtype=FLOAT)},
    )
    target = bind(spec, Y, batch_size=None, dtype=None, device=None)
    m = np.zeros((1, 2))
    draws = Draws(draws={"m": m}, sample_stats={}, attrs={}, _target=target)
    expected = stats.norm(0, 0.5).logpdf(Y)
    np.testing.assert_allclose(draws.log_likelihood()["log_lik"][0, 1], expected)
    with pytest.raises(TypeError, match="posterior_predictive needs a Pyro model"):
        draws.posterior_predictive()


# -------------------------------------------------------------------------------- save and load


def same(a, b):
    assert a.keys() == b.keys()
    for name, values in a.items():
        assert b[name].dtype == values.dtype, name
        np.testing.assert_array_equal(b[name], values)


def test_a_saved_file_gives_the_same_draws_back(tmp_path):
    draws = some_draws(
        warmup={"layer.b": np.arange(6.0).reshape(2, 3)}, optimization={"elbo": np.arange(4.0)}
    )
    path = tmp_path / "posterior.nc"
    assert draws.save(path) == path
    loaded = inference.load(path)
    same(draws.draws, loaded.draws)
    same(draws.sample_stats, loaded.sample_stats)
    same(draws.warmup, loaded.warmup)
    same(draws.optimization, loaded.optimization)
    assert loaded.sample_stats["diverging"].dtype == bool
    assert loaded.dims == draws.dims
    assert list(loaded.coords["feature"]) == ["a", "b", "c"]
    assert list(loaded.coords["row"]) == [10, 20]
    assert {name: loaded.attrs[name] for name in draws.attrs} == draws.attrs
    same(loaded.predict(affine), draws.predict(affine))
    with pytest.raises(ValueError, match="`log_likelihood` needs the model"):
        loaded.log_likelihood()
    with pytest.raises(ValueError, match="`posterior_predictive` needs the model"):
        loaded.posterior_predictive()


def test_saving_what_was_loaded_changes_nothing(tmp_path):
    some_draws().save(tmp_path / "one.nc")
    inference.load(tmp_path / "one.nc").save(tmp_path / "two.nc")
    one, two = (xarray.load_datatree(tmp_path / f"{n}.nc") for n in ("one", "two"))
    xarray.testing.assert_identical(one, two)


def test_further_groups_of_a_file_are_kept(tmp_path):
    groups = {
        "log_likelihood": {"y": np.random.default_rng(1).normal(size=(2, 7, 4))},
        "observed_data": {"y": np.arange(4.0)},
    }
    some_draws().save(tmp_path / "one.nc", groups=groups)
    loaded = inference.load(tmp_path / "one.nc")
    for group, arrays in groups.items():
        same(arrays, loaded.groups[group])
    with pytest.raises(TypeError, match="does not support item assignment"):
        loaded.groups["observed_data"]["y"] = 1
    loaded.save(tmp_path / "two.nc")
    one, two = (xarray.load_datatree(tmp_path / f"{n}.nc") for n in ("one", "two"))
    xarray.testing.assert_identical(one, two)


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, 2**70, -(2**63) - 1, "", [1, [2.5, None]], ()]
)
def test_attributes_of_any_json_type_survive(tmp_path, value):
    some_draws(attrs={"value": value}).save(tmp_path / "x.nc")
    loaded = inference.load(tmp_path / "x.nc").attrs["value"]
    assert loaded == (list(value) if value == () else value) or np.isnan(loaded)


def test_long_attributes_survive(tmp_path):
    """HDF5 keeps attributes above 64 kB elsewhere: a vector of options must not fail there."""
    some_draws(attrs={"options": {"variance": [0.125] * 20_000}}).save(tmp_path / "x.nc")
    loaded = inference.load(tmp_path / "x.nc")
    assert loaded.attrs["options"]["variance"] == [0.125] * 20_000


def test_nan_draws_of_a_frozen_chain_survive(tmp_path):
    b = np.where(np.arange(14).reshape(2, 7) > 10, np.nan, 1.0)
    Draws(draws={"b": b}, sample_stats={}, attrs={}).save(tmp_path / "x.nc")
    np.testing.assert_array_equal(inference.load(tmp_path / "x.nc").draws["b"], b)


def test_groups_computed_before_saving_are_in_the_file(tmp_path):
    draws = exact_draws(count=6)
    draws.save(tmp_path / "x.nc", log_likelihood=True, posterior_predictive=True)
    tree = xarray.load_datatree(tmp_path / "x.nc")
    assert set(tree.children) == {
        "posterior",
        "log_likelihood",
        "posterior_predictive",
        "observed_data",
    }
    np.testing.assert_array_equal(tree["log_likelihood/y"], draws.log_likelihood()["y"])


def test_no_file_holds_a_pickle(tmp_path):
    path = some_draws().save(tmp_path / "x.nc")
    content = path.read_bytes()
    assert content[:8] == b"\x89HDF\r\n\x1a\n"
    for protocol in (b"\x80\x03c", b"\x80\x04\x95", b"\x80\x05\x95"):
        assert protocol not in content


@pytest.mark.parametrize("where", ["writing", "renaming"])
def test_a_failed_save_leaves_the_old_file_and_no_other(where, tmp_path, monkeypatch):
    path = some_draws().save(tmp_path / "x.nc")
    before = path.read_bytes()

    def half(self, target, **options):
        target.write_bytes(b"half a file")
        raise OSError("no space left")

    def refuse(source, target):
        raise OSError("no space left")

    if where == "writing":
        monkeypatch.setattr(xarray.DataTree, "to_netcdf", half)
    else:
        monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        some_draws(attrs={}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.nc"]


def test_a_save_replaces_the_old_file(tmp_path):
    path = some_draws().save(tmp_path / "x.nc")
    assert some_draws(attrs={"method": "hmc"}).save(str(path)) == path
    assert inference.load(str(path)).attrs["method"] == "hmc"


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(repr(str(tmp_path / "no")))):
        some_draws().save(tmp_path / "no" / "x.nc")
    for missing in (tmp_path / "x.nc", tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(repr(str(missing)))):
            inference.load(missing)


def test_a_file_that_holds_no_draws_is_refused(tmp_path):
    text, foreign, cut = tmp_path / "text.nc", tmp_path / "foreign.nc", tmp_path / "cut.nc"
    text.write_text("chain,draw\n0,1\n")
    xarray.Dataset({"t": ("x", np.zeros(3))}).to_netcdf(foreign, engine="h5netcdf")
    whole = some_draws().save(tmp_path / "whole.nc").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for path, message in (
        (text, "is not a readable netCDF file"),
        (foreign, "has no group 'posterior'"),
        (cut, "is not a readable netCDF file"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            inference.load(path)
        assert str(path) in str(error.value)


def test_a_posterior_that_is_not_by_chain_and_draw_is_refused(tmp_path):
    path = tmp_path / "other.nc"
    tree = xarray.DataTree.from_dict({"posterior": xarray.Dataset({"w": ("x", np.zeros(3))})})
    tree.to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match=r"'w' .* \(chain, draw\)"):
        inference.load(path)


def test_draws_are_shown_in_a_line():
    shown = "Draws(method='nuts', 2 x 7 draws: layer.w (3,), layer.b (), s (2, 2))"
    assert repr(some_draws()) == shown
