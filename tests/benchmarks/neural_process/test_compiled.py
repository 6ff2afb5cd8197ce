"""A compiled training step: the same losses, and what it saves once it is compiled."""

import time

import pytest
import torch

from probnet.datasets import GPTasks
from probnet.neural_process import MPNP

STEPS = 60


@pytest.mark.benchmark
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler
def test_compiled_step():
    seconds, curves = {}, {}
    for compiled in (False, True):
        start = time.process_time()
        trained = MPNP().fit(GPTasks(seed=0), num_steps=STEPS, seed=0, compile=compiled)
        first = time.process_time() - start
        curves[compiled] = trained.loss_curve
        start = time.process_time()
        MPNP().fit(GPTasks(seed=0), num_steps=STEPS, seed=0, compile=compiled)
        seconds[compiled] = first, (time.process_time() - start) / STEPS
        print(f"\ncompile={compiled}: first run {first:.1f} CPU-s, then "
              f"{1e3 * seconds[compiled][1]:.1f} CPU ms per step")  # fmt: skip
    torch.testing.assert_close(curves[True], curves[False], rtol=0.02, atol=0.02)
