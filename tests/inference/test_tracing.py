"""Traces and compilations in several threads do not disturb each other."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from torch.fx import _symbolic_trace

from inference.tracing import exclusive_tracing, trace

X = torch.arange(3.0)


def overlap(tracer):
    """Two traces in threads, the second from within the first to after its end, if it can."""
    first_began, second_began, first_ended = (threading.Event() for _ in range(3))

    def first(x):
        first_began.set()
        second_began.wait(0.5)
        return 2 * x

    def second(x):
        second_began.set()
        first_ended.wait(5.0)
        return 3 * x

    def run_first():
        graph = tracer(first)
        first_ended.set()
        return graph

    def run_second():
        first_began.wait(5.0)
        return tracer(second)

    with ThreadPoolExecutor(2) as pool:
        return [f.result() for f in [pool.submit(run_first), pool.submit(run_second)]]


def test_overlapping_traces_leave_compilation_working():
    graphs = overlap(lambda function: trace(function, X))
    assert not _symbolic_trace.is_fx_tracing()
    assert torch.equal(graphs[0](X), 2 * X)
    assert torch.equal(graphs[1](X), 3 * X)
    with pyro.validation_enabled(False):  # torch.compile switches it off for good
        compiled = torch.compile(graphs[1], backend="eager", fullgraph=True)
        assert torch.equal(compiled(X), 3 * X)


def test_many_threads_trace_what_they_were_given():
    with ThreadPoolExecutor(8) as pool:
        factors = [float(k) for k in range(32)]
        graphs = list(pool.map(lambda k: trace(lambda x: k * x, X), factors))
    assert all(torch.equal(g(X), k * X) for g, k in zip(graphs, factors, strict=True))
    assert not _symbolic_trace.is_fx_tracing()


def test_a_failed_trace_releases_the_lock():
    def fails(x):
        raise ArithmeticError(str(x.shape))

    with pytest.raises(ArithmeticError):
        trace(fails, X)
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(trace, torch.neg, X).result(10)(X), -X)


def test_waiting_for_another_thread_has_an_end():
    def wait():
        with exclusive_tracing(timeout=0.01):
            pass

    with (
        exclusive_tracing(),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(RuntimeError, match="another thread has been compiling"),
    ):
        pool.submit(wait).result(10)


def test_graphs_have_no_dead_code():
    def wasteful(x):
        x.exp()
        return x + 1

    graph = trace(wasteful, X)
    assert sum(node.op == "call_function" for node in graph.graph.nodes) == 1
