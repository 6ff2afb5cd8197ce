"""
Completing digits
=================

A picture is a function from places to grey values. A martingale posterior neural process sees
a few pixels of a digit it was not trained on and draws whole pictures that agree with them.
"""

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.distributions import Normal

from probnet.datasets import ImageTasks
from probnet.neural_process import MPANP

SMOKE = bool(os.environ.get("PROBNET_SMOKE"))  # the test suite takes fewer steps
torch.set_num_threads(1)
OUT = Path("out")
OUT.mkdir(exist_ok=True)

# %%
# scikit-learn's 8 x 8 digits, divided into images to train and to test on.
tasks = ImageTasks.digits(num_context=(3, 40), seed=0)
network = MPANP(x_dim=2, width=32 if SMOKE else 64, num_heads=4, num_pseudo=16, min_scale=0.02)
trained = network.fit(
    tasks,
    num_steps=60 if SMOKE else 1200,
    batch_size=8 if SMOKE else 16,
    num_functions=2 if SMOKE else 4,
    learning_rate=2e-3,
    seed=0,
)

# %%
# The yardstick: every pixel has the mean and the standard deviation it has in training images.
test = tasks.split("test", 32 if SMOKE else 128)
posterior = trained.condition(test.xc, test.yc, mask=test.mask_c)
logs = posterior.predict(test.xt, num_functions=20).log_prob(test.yt.double())
nll = -float(logs[test.mask_t].mean())
pixels = tasks.y[tasks.rows["train"]]
plain = Normal(pixels.mean(0), pixels.std(0).clamp_min(0.05))
place = ((test.xt + 1) / 2 * 8).floor().long()
number = (place[..., 0] * 8 + place[..., 1]).clamp(0, 63)
law = Normal(plain.mean[number], plain.stddev[number])
nll_plain = -float(law.log_prob(test.yt)[test.mask_t].mean())
print(f"nats per pixel: {nll:.3f}, of pixels by themselves {nll_plain:.3f}")

# %%
# Pictures: given pixels, the mean, three draws, the truth.
functions = posterior.sample_functions(test.xt, 3, seed=0)
mean = posterior.predict(test.xt, num_functions=20).mean
nothing = torch.full_like(test.yt, torch.nan)
columns = {"given": nothing, "mean": mean}
columns |= {f"draw {k + 1}": draw for k, draw in enumerate(functions)}
columns["truth"] = test.yt
figure, axes = plt.subplots(5, len(columns), figsize=(7, 6))
for column, (title, values) in enumerate(columns.items()):
    pictures = tasks.picture(test, values)[..., 0].numpy()
    for row in range(5):
        axes[row, column].imshow(pictures[row], cmap="gray_r", vmin=-0.5, vmax=0.5)
        axes[row, column].set(xticks=[], yticks=[], facecolor="lightsteelblue")
    axes[0, column].set_title(title)
figure.tight_layout()
figure.savefig(OUT / "np_digits.png", dpi=120)

# %%
excess_nll = nll - nll_plain
print(f"excess over pixels by themselves: {excess_nll:.3f} nats per pixel")
