"""Train a process that comes with the package, and write its file."""

from pathlib import Path

from probnet._pretrained import train_from_shell
from probnet.neural_process.pretrained import NAMES, train_pretrained

if __name__ == "__main__":
    file = Path(__file__).with_name(f"{NAMES[0]}.probnet")
    train_from_shell(train_pretrained, file, num_steps=20_000, batch="16 tasks")
