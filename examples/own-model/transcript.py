"""Makes README.md: what ``moatbench check`` and ``assess`` say of the models of models.py, and in what time.

``python transcript.py DATA [--minutes 10]``: DATA holds the folder ``adult`` with adult.data and adult.test
of the UCI repository (https://archive.ics.uci.edu/dataset/2/adult), as ``moatbench data fetch adult`` lays
them out.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SUBJECTS = (
    (
        "A scikit-learn pipeline over a census",
        "Gradient boosting behind a column transformer, trained on the rows of `adult-train.csv`.",
        "boosting.skops --data adult.csv --label income --train adult-train.csv --group sex",
        True,
    ),
    (
        "The same data, a linear model as ONNX",
        "Exported with skl2onnx.",
        "linear.onnx --data adult-filled.csv --label income --train adult-train.csv",
        True,
    ),
    (
        "A convolutional network over a folder of pictures",
        "A `torch.export` program; one folder of PNG files a class.",
        "shapes.pt2 --data shapes",
        True,
    ),
    (
        "A function that answers labels alone",
        "No true labels, so the model's own stand for them.",
        "tariff.py:tariff --data customers.csv",
        True,
    ),
    (
        "Too little data",
        "Three rows: there is nothing to assess.",
        "tariff.py:tariff --data three-rows.csv",
        False,
    ),
)
"""Title, what it is, the words after the command, and whether an assessment is run."""


def main() -> None:
    """Make the models in a temporary folder, run every command there, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=10, help="0: checks alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, str(HERE / "models.py"), str(folder), str(options.data.resolve())], check=True
        )
        pages = [page(folder, *subject, minutes=options.minutes) for subject in SUBJECTS]
    (HERE / "README.md").write_text(head(options.minutes) + "\n".join(pages), encoding="utf-8")


def head(minutes: float) -> str:
    """Return how the page begins."""
    assess = (
        "`moatbench assess` chooses attacks and defenses, runs them and recommends."
        if minutes
        else "What `moatbench assess` then does is not shown here."
    )
    return f"""# Assessing a model of one's own: a transcript

Models that nobody tuned for this. `moatbench check` looks before anything is run. {assess}
[models.py](models.py) makes the models, [transcript.py](transcript.py) this page
(`python transcript.py DATA --minutes {minutes:g}`), here on {os.cpu_count()} cores ({platform.machine()}).

"""


def page(folder: Path, title: str, what: str, words: str, assessed: bool, *, minutes: float) -> str:
    """Return one section: the commands, what they printed, their exit codes and wall times."""
    commands = [f"check {words}"]
    if minutes:
        commands += [f"assess {words} --minutes {minutes:g}"] if assessed else [f"assess {words}"]
    lines = [f"## {title}", "", what, "", "```console"]
    for command in commands:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "bench", *command.split()],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(HERE.parents[1]), "COLUMNS": "110"},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
        lines += [f"$ moatbench {command}", done.stdout.rstrip()]
        if done.returncode:
            lines.append(done.stderr.rstrip().splitlines()[-1])
        lines.append(
            f"# exit code {done.returncode}, {seconds / 60:.1f} min"
            if seconds >= 60
            else f"# exit code {done.returncode}, {seconds:.0f} s"
        )
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    main()
