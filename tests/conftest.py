"""Settings for every test: repeatable draws, and one thread a worker under xdist."""

import gc
import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bit for bit equality is a promise of the CPU
if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from contrastive.cli import main
from tests.support.ends import short_ends, whole_ends
from tests.support.tiny import write_data, write_recipe

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("thorough", settings.get_profile("repeatable"), max_examples=100)


def pytest_configure(config: pytest.Config) -> None:
    """With ``-m ''``, which runs every test, those that draw examples draw more of them."""
    settings.load_profile("repeatable" if config.option.markexpr else "thorough")


def pytest_runtest_setup() -> None:
    """Every test draws the same, whichever tests ran before it in its process."""
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected, millions of objects, is not searched for garbage, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)  # what tests leave is searched less often than by default
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _short_ends() -> Iterator[None]:
    with short_ends():
        yield


@pytest.fixture(name="whole_ends")
def _whole_ends() -> Iterator[None]:
    """Runs end as for a user: with a report, and with metrics of views."""
    with whole_ends():
        yield


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled image folder of three classes, 16 x 16 pixels."""
    return write_data(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """A recipe that trains three epochs on ``tiny_data`` in about a second."""
    return write_recipe(tmp_path_factory.mktemp("recipe"), tiny_data)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Path:
    """The folder of a finished run of ``tiny_recipe``; to be read, not written."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["run", str(tiny_recipe), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Path:
    """The folder of a finished run of ``tiny_recipe`` that ended as for a user; to be read, not written."""
    folder = tmp_path_factory.mktemp("whole") / "tiny"
    with whole_ends():
        assert main(["run", str(tiny_recipe), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs in an empty folder, so that what a command writes by mistake shows."""
    monkeypatch.chdir(tmp_path)
