"""What benchmarks share: the page of the documentation that each of them writes."""

import datetime
import importlib.metadata
import platform
import re
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "benchmarks"


def processor():
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found.group(1).strip() if found else platform.processor()


@pytest.fixture
def write_table():
    """Print rows as a table, and make a page of it: `(name, title, text, header, rows)`.

    The page says when and where it was measured, and with which versions of `packages`.
    """

    def write(name, title, text, header, rows, packages=("torch",)):
        lines = [
            "| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)
        ]
        versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
        where = f"{processor()}, one thread; Python {platform.python_version()}, {versions}"
        print("\n" + "\n".join(lines))
        PAGES.mkdir(exist_ok=True)
        (PAGES / f"{name}.md").write_text(
            f"# {title}\n\n{text}\n\n" + "\n".join(lines) + "\n\n"
            f"Measured on {datetime.date.today().isoformat()}: {where}.\n"
        )

    return write
