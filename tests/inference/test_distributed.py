"""Groups of chains as tasks of an executor: the draws of the local run."""

import multiprocessing
import os
import signal
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import inference
from inference import AllChainsDivergedError, InferenceWarning, LogDensity

pytestmark = pytest.mark.filterwarnings("ignore::inference.InferenceWarning")

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(40, 3))
Y = X @ np.array([1.0, -1.0, 0.5]) + _RNG.normal(size=40)


def log_prior(p):
    return -p["w"].square().sum() / 2


def log_lik(p, data):
    return -(data[1] - data[0] @ p["w"]).square() / 2


def target(likelihood=log_lik):
    return LogDensity(
        log_prior=log_prior, log_lik=likelihood, params={"w": torch.zeros(3).double()}
    )


OPTIONS = {"num_chains": 10, "num_warmup": 20, "num_samples": 40, "batch_size": 10}
OPTIONS |= {"seed": 3, "step_size": 0.05, "friction": 5.0, "progress": False}
OPTIONS |= {"keep_warmup": True}


def run(likelihood=log_lik, **options):
    return inference.sample(target(likelihood), (X, Y), **(OPTIONS | options))


def assert_same(one, two, rtol=1e-9):
    """Products of other numbers of chains may round otherwise."""
    for mine, other in (
        (one.draws, two.draws), (one.sample_stats, two.sample_stats), (one.warmup, two.warmup)
    ):  # fmt: skip
        assert set(mine) == set(other)
        for name in mine:
            np.testing.assert_allclose(mine[name], other[name], rtol=rtol, err_msg=name)
    for name in one.state:
        torch.testing.assert_close(one.state[name], two.state[name], rtol=rtol, atol=rtol)
    assert one.attrs["frozen_chains"] == two.attrs["frozen_chains"]


CASES = {
    "sghmc": {},
    "few chains": {"num_chains": 3},
    "control variates": {"control_variates": "mode"},
    "given starts": {"init": {"w": np.ones(3)}},
    "hmc": {"method": "hmc"},
}
_FULL = ("batch_size", "step_size", "friction", "keep_warmup")


@pytest.mark.parametrize("case", CASES)
def test_draws_are_those_of_the_local_run(case):
    options = OPTIONS | CASES[case]
    if case == "hmc":
        options = {n: v for n, v in options.items() if n not in _FULL}
    with ThreadPoolExecutor(1) as executor:
        found = inference.sample(target(), (X, Y), executor=executor, **options)
    expected = inference.sample(target(), (X, Y), **options)
    assert_same(found, expected)


def poisoned(p, data):
    """NaN for whoever walks far in one direction."""
    return torch.where(p["w"][0] > 1.6, torch.nan, log_lik(p, data))


def test_a_frozen_chain_is_numbered_as_in_the_local_run():
    with ThreadPoolExecutor(1) as executor:
        found = run(poisoned, executor=executor, seed=5, num_chains=5)
    expected = run(poisoned, seed=5, num_chains=5)  # every chain is alone in its group
    assert 0 < len(expected.attrs["frozen_chains"]) < 5
    assert found.attrs["frozen_chains"] == expected.attrs["frozen_chains"]
    np.testing.assert_allclose(found.draws["w"], expected.draws["w"], rtol=1e-9)


class Refusing(Executor):
    """Loses every task from the third on."""

    def __init__(self):
        self.tasks = 0

    def submit(self, function, *args):  # type: ignore[override]
        self.tasks += 1
        future = Future()
        if self.tasks > 2:
            future.set_exception(OSError("worker lost"))
        else:
            future.set_result(function(*args))
        return future


def test_a_broken_run_goes_on_from_its_groups_with_or_without_an_executor(tmp_path):
    executor = Refusing()
    with pytest.raises(OSError, match="worker lost"):
        run(executor=executor, checkpoint=tmp_path / "run")
    assert executor.tasks == 8  # groups, however many workers there are
    with ThreadPoolExecutor(2) as working:
        found = inference.resume(
            tmp_path / "run", target(), (X, Y), executor=working, progress=False
        )
    assert_same(found, run())
    again = inference.resume(tmp_path / "run", target(), (X, Y), progress=False)
    assert_same(again, found, rtol=0)
    longer = inference.resume(
        tmp_path / "run", target(), (X, Y), num_samples=60, progress=False
    )
    assert_same(longer, run(num_samples=60))


def test_a_local_run_does_not_become_one_of_groups(tmp_path):
    run(checkpoint=tmp_path / "run")
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="leave it out"):
        inference.resume(tmp_path / "run", target(), (X, Y), executor=executor)


def test_all_chains_lost_is_an_error_and_warnings_come_home():
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(AllChainsDivergedError, match=r"try 0\.0125"):
            run(lambda p, d: torch.where(p["w"].sum() > -9, torch.nan, 0.0) + 0 * d[1],
                executor=executor, init={"w": -4.0 * np.ones(3)})  # fmt: skip
        with pytest.warns(InferenceWarning, match="kinetic") as caught:
            run(executor=executor, step_size=0.3, num_samples=300, thin=2)
    assert len(caught) == len({str(w.message) for w in caught})


def test_goals_of_all_chains_are_refused():
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(ValueError, match="seconds only"):
            run(executor=executor, until={"ess": 100})
        found = run(executor=executor, until={"seconds": 0.05}, num_samples=10_000)
    assert 0 < found.num_samples < 10_000


def test_what_is_no_executor():
    with pytest.raises(TypeError, match=r"client\.get_executor\(\); got int"):
        run(executor=2)


def test_processes(tmp_path):
    """Functions of a module travel; each process imports them for itself."""
    context = multiprocessing.get_context("spawn")  # JAX, once loaded, cannot be forked
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        found = run(executor=executor, checkpoint=tmp_path / "run", num_chains=2)
    assert_same(found, run(num_chains=2))


def deadly(flag, p, data):
    """The first process to come here dies without a word; its successor finds the flag."""
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return log_lik(p, data)


@pytest.mark.slow
def test_a_killed_dask_worker_costs_nothing(tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the extra `dask`")
    flag = tmp_path / "flag"
    flag.touch()  # the log density is looked at here first
    likelihood = partial(deadly, str(flag))
    expected = run(likelihood)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = set(client.run(os.getpid).values())
        executor = client.get_executor()
        submit = executor.submit

        def submit_then_arm(function, *args):
            if flag.exists():
                flag.unlink()
            return submit(function, *args)

        executor.submit = submit_then_arm
        found = run(likelihood, executor=executor, checkpoint=tmp_path / "run")
        assert flag.exists()  # somebody died
        assert set(client.run(os.getpid).values()) != workers
    assert_same(found, expected)
