"""The examples run, print what they promise, and are as short as they claim."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def output_of(name: str, folder: Path) -> str:
    """What an example prints in an empty folder, where it leaves nothing. It imports what these tests do."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, str(EXAMPLES / name)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert not any(folder.iterdir())
    return result.stdout


def losses_in(output: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"step \d+  loss ([\d.]+)", output)]


def lines_of(name: str) -> int:
    return len((EXAMPLES / name).read_text(encoding="utf-8").splitlines())


@pytest.mark.ci
def test_simclr_in_your_own_loop(tmp_path):
    output = output_of("simclr_loop.py", tmp_path)
    losses = losses_in(output)
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.3  # of 5.54 = log(2 * 128 - 1) without any learning
    assert "features of 8 images: [8, 128]" in output
    assert lines_of("simclr_loop.py") <= 40


@pytest.mark.usefixtures("elsewhere")
def test_your_own_loss(capsys):
    runpy.run_path(str(EXAMPLES / "own_loss.py"), run_name="__main__")
    losses = losses_in(capsys.readouterr().out)
    assert not any(Path().iterdir())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 < 1 < losses[0]
    assert lines_of("own_loss.py") <= 20


@pytest.mark.ci
def test_an_encoder_in_a_scikit_learn_pipeline(tmp_path):
    pytest.importorskip("sklearn")
    output = output_of("encoder_in_sklearn.py", tmp_path)
    accuracy = re.search(r"accuracy on 1,000 test images: ([\d.]+)%", output)
    assert accuracy
    assert float(accuracy[1]) > 60  # ten classes: chance is 10


def test_without_scikit_learn_the_example_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(SystemExit, match=r"^This example needs scikit-learn: pip install scikit-learn$"):
        runpy.run_path(str(EXAMPLES / "encoder_in_sklearn.py"))


def test_every_example_is_tested():
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(path.name in text for path in EXAMPLES.glob("*.py"))
