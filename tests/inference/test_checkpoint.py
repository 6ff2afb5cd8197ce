"""Runs that are saved, killed, interrupted and resumed are those without the incident."""

import contextlib
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

import inference
from inference import LogDensity
from inference.checkpoint import _pieces, _write

# The runs are too short to be good; whether they are the same is what matters.
pytestmark = pytest.mark.filterwarnings("ignore::inference.InferenceWarning")

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(60, 3))
Y = X @ np.array([1.0, -1.0, 0.5]) + _RNG.normal(size=60)


def log_lik(p, data):
    x, y = data
    return -((y - x @ p["w"]) / p["scale"]).square() / 2 - p["scale"].log()


def regression(likelihood=log_lik, width=3):
    return LogDensity(
        log_prior=lambda p: -p["w"].square().sum() / 2 - p["scale"],
        log_lik=likelihood,
        params={"w": torch.zeros(width).double(), "scale": torch.ones(()).double()},
        constraints={"scale": torch.distributions.constraints.positive},
    )


def slowly(p, data):
    """The likelihood of a model whose step takes a millisecond: something to kill."""
    time.sleep(1e-3)
    return log_lik(p, data)


OPTIONS = {"num_chains": 2, "num_warmup": 30, "num_samples": 60, "batch_size": 9}
OPTIONS |= {"thin": 2, "seed": 3, "step_size": 0.02, "chunk_size": 8, "progress": False}
CASES = {
    "sghmc": {"resample_every": 7},
    "adaptive": {"method": "sghmc_adaptive", "keep_warmup": True},
    "thermostat": {"method": "sgnht"},
    "langevin": {"method": "sgld", "step_size": 1e-3, "temperature": 0.5},
    "cyclical": {"method": "csghmc", "num_cycles": 5, "num_warmup": 0},
    "control variates": {"control_variates": "epoch"},
    "mode": {"control_variates": "mode"},
    "estimated noise": {"noise_correction": 1.0, "num_warmup": 100},
    "decreasing": {
        "schedule": inference.schedules.Polynomial(offset=50.0),
        "method": "sgld",
        "step_size": 1e-3,
    },
    "single precision": {"dtype": torch.float32},
}


def run(path=None, target=None, **options):
    return inference.sample(
        target or regression(), (X, Y), checkpoint=path, **(OPTIONS | options)
    )


def assert_equal(one, two):
    groups = ((one.draws, two.draws), (one.sample_stats, two.sample_stats))
    for mine, other in (*groups, (one.warmup, two.warmup)):
        assert set(mine) == set(other)
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name], err_msg=name)
    for name in one.state:
        assert torch.equal(one.state[name], two.state[name]), name


class Crash(Exception):
    pass


@contextlib.contextmanager
def crashing(monkeypatch, at_save):
    """The n-th checkpoint writes its draws, and the process dies before they count."""
    from inference import checkpoint

    write, count = checkpoint._write, []

    def dying(path, content):
        if path.name == "state.safetensors":
            count.append(1)
            if len(count) == at_save:
                raise Crash
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", dying)
        yield


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_died_goes_on_bit_for_bit(case, tmp_path, monkeypatch):
    whole = run(**CASES[case])
    with crashing(monkeypatch, at_save=3), pytest.raises(Crash):
        run(tmp_path / "run", checkpoint_every=16, **CASES[case])
    assert_equal(
        inference.resume(tmp_path / "run", regression(), (X, Y), progress=False), whole
    )


def _work(path):
    run(path, target=regression(slowly), checkpoint_every=8, chain_method="sequential")


def _go_on(path):
    inference.resume(path, regression(slowly), (X, Y), progress=False)


def saved_steps(path):
    try:
        with safe_open(path / "state.safetensors", framework="pt") as file:
            return json.loads(file.metadata()["position"])["step"]
    except OSError:
        return 0


def test_killed_again_and_again(tmp_path):
    """SIGKILL, at moments the process does not choose; at most a chunk and a half are lost."""
    path = tmp_path / "run"
    context = multiprocessing.get_context("forkserver")  # JAX, once loaded, cannot be forked
    context.set_forkserver_preload(["inference"])
    before = 0
    for attempt, work in enumerate((_work, _go_on, _go_on)):
        process = context.Process(target=work, args=(path,))
        process.start()
        while saved_steps(path) < before + 16 + 5 * attempt and process.is_alive():
            time.sleep(0.003)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert saved_steps(path) > before
        before = saved_steps(path)
    assert before < 150
    whole = run(target=regression(slowly), chain_method="sequential")
    found = inference.resume(path, regression(slowly), (X, Y), progress=False)
    assert_equal(found, whole)


def test_killed_before_the_first_checkpoint(tmp_path, monkeypatch):
    with crashing(monkeypatch, at_save=1), pytest.raises(Crash):
        run(tmp_path / "run", checkpoint_every=16)
    found = inference.resume(tmp_path / "run", regression(), (X, Y), progress=False)
    assert_equal(found, run())


@pytest.fixture
def ctrl_c():
    """The handler of a shell's foreground; one started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_interrupted_by_ctrl_c_the_run_returns_and_goes_on(tmp_path):
    calls = []

    def pressed(p, data):
        calls.append(1)
        if len(calls) == 90:
            signal.raise_signal(signal.SIGINT)
        return log_lik(p, data)

    options = {"chain_method": "sequential", "num_chains": 1}
    stopped = run(tmp_path / "run", target=regression(pressed), **options)
    assert stopped.attrs["interrupted"]
    assert 0 < stopped.num_samples < 60
    whole = run(**options)
    found = inference.resume(tmp_path / "run", regression(), (X, Y), progress=False)
    assert not found.attrs["interrupted"]
    assert_equal(found, whole)
    kept = stopped.num_samples
    np.testing.assert_array_equal(stopped.draws["w"], whole.draws["w"][:, :kept])


def test_a_finished_run_is_read_and_made_longer(tmp_path):
    first = run(tmp_path / "run")
    again = inference.resume(tmp_path / "run", regression(), (X, Y), progress=False)
    assert_equal(again, first)
    longer = inference.resume(
        tmp_path / "run", regression(), (X, Y), num_samples=90, progress=False
    )
    assert_equal(longer, run(num_samples=90))


def test_starting_points_need_not_be_given_again(tmp_path):
    init = {"w": np.ones(3), "scale": 2.0}
    whole = run(init=init)
    run(tmp_path / "run", init=init, num_samples=20)
    found = inference.resume(
        tmp_path / "run", regression(), (X, Y), num_samples=60, progress=False
    )
    assert_equal(found, whole)


# -- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 4}, ["seed", "3", "4"]),
        ({"batch_size": 10, "thin": 1}, ["batch_size", "thin"]),
        ({"step_size": 0.1}, ["options", "0.02", "0.1"]),
        ({"method": "sgld"}, ["method"]),
        ({"num_chains": 3}, ["num_chains"]),
        ({"control_variates": "mode"}, ["control_variates"]),
    ],
)
def test_changed_arguments_are_named(tmp_path, changed, named):
    run(tmp_path / "run")
    with pytest.raises(ValueError, match="cannot go on") as caught:
        inference.resume(tmp_path / "run", regression(), (X, Y), progress=False, **changed)
    assert all(f"{word}" in str(caught.value) for word in named)


@pytest.mark.parametrize(
    ("target", "data", "named"),
    [
        (regression(width=4), (np.c_[X, X[:, 0]], Y), "parameters"),
        (regression(), (X, Y + 1), "data"),
        (regression(), (X[:40], Y[:40]), "num_data"),
        (regression(lambda p, d: 2 * log_lik(p, d)), (X, Y), "log_density"),
        (regression(), (X.astype("float32"), Y.astype("float32")), None),
    ],
)
def test_another_target_is_refused(tmp_path, target, data, named):
    """The last is the same data: it is converted to the target's dtype, and rounded."""
    run(tmp_path / "run")
    with pytest.raises(ValueError, match=f"cannot go on.*{named or 'data'}"):
        inference.resume(tmp_path / "run", target, data, progress=False)


def test_a_directory_in_use_is_not_overwritten(tmp_path):
    run(tmp_path / "run", num_samples=10)
    with pytest.raises(FileExistsError, match=r"inference\.resume"):
        run(tmp_path / "run", num_samples=10)
    (tmp_path / "run" / "meta.json").unlink()
    with pytest.raises(FileExistsError, match="holds a run already"):
        run(tmp_path / "run", num_samples=10)
    with pytest.raises(FileNotFoundError, match=r"meta\.json"):
        inference.resume(tmp_path / "run", regression(), (X, Y))


@pytest.mark.parametrize("name", ["meta.json", "state.safetensors", "start.safetensors"])
def test_damaged_files_are_named(tmp_path, name):
    run(tmp_path / "run", num_samples=10)
    file = tmp_path / "run" / name
    file.write_bytes(file.read_bytes()[:30])
    with pytest.raises(ValueError, match=f"{name}.*damaged"):
        inference.resume(tmp_path / "run", regression(), (X, Y), progress=False)


def test_a_lost_file_of_draws_is_named(tmp_path):
    run(tmp_path / "run", checkpoint_every=16)
    (tmp_path / "run" / "draws-000001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"draws-000001\.safetensors"):
        inference.resume(tmp_path / "run", regression(), (X, Y), progress=False)


def test_bad_requests():
    with pytest.raises(ValueError, match="`checkpoint_every`"):
        run(checkpoint_every=10)
    with pytest.raises(ValueError, match="`checkpoint`"):
        run("somewhere", method="nuts", batch_size=None, chunk_size=None)


def test_fewer_draws_than_there_are_and_longer_cycles_are_refused(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(ValueError, match="`num_samples` must be at least the 60"):
        inference.resume(tmp_path / "run", regression(), (X, Y), num_samples=50)
    run(tmp_path / "cycles", **CASES["cyclical"])
    with pytest.raises(ValueError, match="its cycles would"):
        inference.resume(tmp_path / "cycles", regression(), (X, Y), num_samples=80)


def test_files_of_draws_are_what_the_library_would_write(tmp_path):
    """Slices of larger arrays, of every kind that is stored."""
    random = np.random.default_rng(0)
    arrays = {
        "draws.w": random.normal(size=(3, 8, 2))[:, 3:],
        "sample_stats.diverging": random.random((3, 8))[:, 3:] > 0.5,
        "sample_stats.lp": random.normal(size=(3, 8)).astype(np.float32)[:, 3:],
        "sample_stats.n_steps": random.integers(9, size=(3, 8))[:, 3:],
        "draws.none": np.empty((3, 5, 0)),
    }
    path = tmp_path / "draws.safetensors"
    _write(path, _pieces(arrays))
    found = load_file(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
