"""
A neural process beside the exact Gaussian process
==================================================

A small attentive martingale posterior neural process is trained on random functions of a known
Gaussian process (some minutes on two cores), and then asked about new ones. It sees a handful
of points and answers in one pass; nothing is fitted any more. What no method can beat is the
exact predictive with the hyper-parameters integrated out, shown beside it.

`python examples/np_vs_gp.py --pretrained` takes the network that comes with the package.
"""

# %%
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from probnet.datasets import GPTasks
from probnet.neural_process import load_pretrained, oracle, train_pretrained

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))  # the test suite takes fewer steps
OUT = Path("out")
OUT.mkdir(exist_ok=True)
tasks = GPTasks(kernel="rbf", seed=0)
if "--pretrained" in sys.argv or SMOKE:
    trained = load_pretrained("rbf_1d")
else:
    trained = train_pretrained(3000)
if SMOKE:  # the recipe runs, too
    train_pretrained(2)
print(f"{trained.diagnostics['tasks_seen']:,} tasks seen in training")

# %%
# Log-likelihoods in nats per target, on tasks that were not trained on. The gap to the exact
# predictive is what the network has not learned; its standard error is over tasks.
report = trained.evaluate(
    tasks, num_tasks=64 if SMOKE else 512, oracle=oracle("rbf", integrate=True)
)
for kind in ("pointwise", "joint"):
    print(
        f"{kind:9}: network {report.scores[f'target_{kind}']:.3f}, "
        f"exact {report.scores[f'oracle_{kind}']:.3f}, "
        f"gap {report.scores[f'gap_{kind}']:.3f} ± {report.standard_errors[f'gap_{kind}']:.3f}"
    )
print("coverage of central intervals:", report.coverage)

# %%
# Bands of 95 % and functions, for the first test tasks.
grid = torch.linspace(-2, 2, 200)[:, None].double()
test = tasks.split("test", 3).to(torch.float64)
exact = oracle("rbf", integrate=True)
figure, axes = plt.subplots(3, 2, figsize=(10, 8), layout="constrained", sharex=True)
for row, mask in enumerate(test.mask_c):
    xc, yc = test.xc[row, mask], test.yc[row, mask]
    posteriors = {"neural process": trained.condition(xc, yc), "exact": exact.condition(xc, yc)}
    for ax, (name, posterior) in zip(axes[row], posteriors.items(), strict=True):
        law = posterior.predict(grid)
        lower, upper = (law.icdf(torch.tensor(q).double())[:, 0] for q in (0.025, 0.975))
        ax.fill_between(grid[:, 0], lower, upper, color="tab:blue", alpha=0.2)
        ax.plot(grid[:, 0], law.mean[:, 0], color="tab:blue")
        if name == "neural process":
            functions = posterior.sample_functions(grid, 8, seed=0)[..., 0]
            ax.plot(grid[:, 0], functions.T, color="tab:orange", lw=0.7)
        ax.plot(xc[:, 0], yc[:, 0], "k.")
        ax.set(title=f"{name}, {len(xc)} points")
figure.savefig(OUT / "np_vs_gp.png", dpi=110)

# %%
# The numbers that the test suite bounds.
gap, defect = report.scores["gap_pointwise"], report.martingale_defect
