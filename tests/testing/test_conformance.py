"""Every built-in part passes the conformance kit; the kit itself, its command and its page."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import unittest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import avg_pool2d

from contrastive.cli import main
from contrastive.errors import UsageError
from contrastive.kinds import KINDS, PatchSize
from contrastive.parts import Loss, Target
from contrastive.protocols import KNN
from contrastive.registry import load_registry
from contrastive.testing import (
    CHECKS,
    VERSION,
    CheckFailed,
    check_part,
    check_plugin,
    checks,
    framework,
    part_checks,
    processes,
)
from contrastive.testing.framework import PLUGIN, bind_checks
from contrastive.testing.processes import two_processes
from contrastive.testing.subjects import Subject
from contrastive.versions import CORE
from tests.support.tiny import write_data

ROOT = Path(__file__).parents[2]
REGISTRY = load_registry(plugins=False)


def image_folder(folder: Path):
    write_data(folder / "images", train=4, test=2)
    return {"root": str(folder / "images")}


def parquet(folder: Path):
    files = sorted(Path(image_folder(folder)["root"]).rglob("*.png"))
    rows = [{"bytes": file.read_bytes(), "path": None} for file in files]
    pq.write_table(
        pa.table({"image": rows, "label": [i % 3 for i in range(len(rows))]}), folder / "train.parquet"
    )
    for file in files:
        file.unlink()
    return {"train": str(folder / "train.parquet")}


def torchvision_files(folder: Path):
    """The raw files that torchvision's MNIST family reads."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 12), ("t10k", 6)):
        arrays = {
            "images-idx3": rng.integers(0, 255, (count, 28, 28), dtype=np.uint8),
            "labels-idx1": (np.arange(count) % 3).astype(np.uint8),
        }
        for name, array in arrays.items():
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (raw / f"{prefix}-{name}-ubyte").write_bytes(header + array.tobytes())
    return {"dataset": "FashionMNIST", "root": str(folder)}


def saved_to_disk(folder: Path):
    hub = pytest.importorskip("datasets")
    images = [str(file) for file in Path(image_folder(folder)["root"]).rglob("*.png")]
    rows = hub.Dataset.from_dict({"image": images, "label": [i % 3 for i in range(len(images))]})
    rows = rows.cast_column("image", hub.Image())
    hub.DatasetDict(train=rows).save_to_disk(str(folder / "saved"))
    return {"path": str(folder / "saved")}


#: Parameters of built-ins whose defaults do not suffice, or are larger than a test needs.
PARAMS = {
    ("dataset", "image_folder"): image_folder,
    ("dataset", "parquet"): parquet,
    ("dataset", "torchvision"): torchvision_files,
    ("dataset", "hugging_face"): saved_to_disk,
    ("dataset", "subset"): {"of": "fashion_mnist_sample", "train": 100, "test": 50},
    ("augmentation", "simclr"): {"size": 16},
    ("augmentation", "random_resized_crop"): {"size": 16},
    ("augmentation", "torchvision"): {"transform": "RandomPosterize", "options": {"bits": 4}},
    ("augmentation", "sequence"): {"operations": ["flip", "color_jitter"]},
    ("augmentation", "views"): {"of": ["flip", "blur", {"crop_of": 0, "pipeline": ["solarize"]}]},
    ("augmentation", "shift"): {"size": 16, "pixels": 4},
    ("backbone", "timm"): {"model": "test_resnet"},
    ("backbone", "torchvision"): {"model": "shufflenet_v2_x0_5"},
}


#: Parts that work only within another one: crop_of within views.
WITHIN = {("augmentation", "crop_of")}
ALONE = [entry for entry in REGISTRY if (entry.kind, entry.name) not in WITHIN]


@pytest.mark.ci
@pytest.mark.parametrize("entry", ALONE, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_built_in_part_passes(entry):
    subject = Subject(entry, REGISTRY, PARAMS.get((entry.kind, entry.name)))
    results = [check.result() for check in bind_checks(subject, CHECKS)]
    assert not {r.check: r.reason for r in results if r.status == "failed"}
    assert sum(r.status == "passed" for r in results) >= 8


def test_the_built_in_plugin_registers_cleanly():
    results = [check.result() for check in checks(CORE) if check.subject.kind == PLUGIN]
    assert {r.check: r.status for r in results} == {
        "api version": "skipped",
        "registers": "passed",
        "import": "passed",
    }


# -- the kit itself ---------------------------------------------------------------------------------------


class Constant(Loss):
    """A loss that raises."""

    def compare(self, comparison):
        raise ValueError("what the author left in")


class Aligned(Loss):
    """A loss that is whole.

    Args:
        weight: what it is multiplied with.
    """

    unchecked = {"memory": "tried on small batches only"}  # noqa: RUF012

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def compare(self, comparison):
        return self.weight * torch.stack([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()]).sum(0)


def test_a_check_that_crashes_in_the_part_tells_the_exception_and_the_line():
    found = {result.check: result for result in check_part(Constant) if result.status == "failed"}
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "left in" in text)
    assert set(found) == {"finite"}
    where = f"in compare (test_conformance.py, line {line})"
    assert found["finite"].reason == f"it raises ValueError: what the author left in {where}"


class Predicts(Loss):
    """A loss against keys without gradient."""

    needs = frozenset({"predictor", "detached_keys"})

    def compare(self, comparison):
        return torch.stack([2 - 2 * (q * k).sum(1) for q, k in comparison.aligned()]).sum(0)


@pytest.mark.ci
def test_a_loss_is_given_what_it_needs():
    assert not [result for result in check_part(Predicts) if result.status == "failed"]


class Means(Target):
    """The mean colour of each patch, of a width that ``width`` declares."""

    detached = fixed = True

    def __init__(self, patch_size: PatchSize):
        super().__init__()
        self.patch_size = patch_size

    def width(self, level):
        return 3 if level == "patch" else None

    def join(self, backbone, heads):
        pass

    def forward(self, views, online, encode):
        return {number: avg_pool2d(x, self.patch_size).flatten(2).mT for number, x in views.items()}


@pytest.mark.ci
def test_a_fixed_target_may_have_a_width_at_level_patch_alone():
    results = check_part(Means)
    assert not [result for result in results if result.status == "failed"]
    assert {result.check: result.status for result in results}["whole views"] == "passed"


def test_pytest_form_raises_skips_and_names():
    by_name = {str(check): check for check in part_checks(Aligned)}
    by_name["loss aligned: gradients"]()
    with pytest.raises(unittest.SkipTest, match="tried on small batches"):
        by_name["loss aligned: memory"]()
    broken = {check.check.name: check for check in part_checks(Constant)}
    with pytest.raises(CheckFailed, match="loss constant: finite: it raises ValueError"):
        broken["finite"]()
    with pytest.raises(unittest.SkipTest, match="not run, because 'finite' failed"):
        broken["order"]()


class Unfinished(Aligned):
    """A loss whose author knows that its values are not finite yet.

    Args:
        weight: what it is multiplied with.
    """

    unchecked = {"finite": "it is not finite at zero"}  # noqa: RUF012


def test_what_depends_on_an_unchecked_check_is_skipped_too_and_listed():
    results = {result.check: result for result in check_part(Unfinished)}
    assert results["finite"].reason == "not checked: it is not finite at zero"
    dependants, size = {"finite"}, 0
    while len(dependants) > size:  # also those that depend on one that depends on it
        size = len(dependants)
        dependants |= {c.name for c in CHECKS if "loss" in c.kinds and dependants.intersection(c.after)}
    assert len(dependants) > 5
    for name in dependants - {"finite"}:
        assert results[name].status == "skipped", name
        assert results[name].reason == "not run, because 'finite' is not checked"
    assert not [result for result in results.values() if result.status == "failed"]
    assert {result.status for name, result in results.items() if name not in dependants} == {"passed"}


def test_quick_leaves_out_what_takes_seconds_and_names_it():
    entry = REGISTRY.entry("loss", "nt_xent")
    results = {c.check.name: c.result() for c in bind_checks(Subject(entry, REGISTRY), CHECKS, quick=True)}
    slow = {check.name for check in CHECKS if "loss" in check.kinds and check.is_slow}
    assert "processes" in slow
    for name in slow:
        assert results[name].status == "skipped"
        assert "left out by --quick" in results[name].reason
    assert all(result.status != "failed" for result in results.values())
    assert results["finite"].status == results["half precision"].status == "passed"


def test_parameters_may_be_given():
    refused = check_part(Aligned, {"weight": "much"})
    assert "loss.weight" in next(r.reason for r in refused if r.status == "failed")
    twice = {r.check: r.status for r in check_part(Aligned, {"weight": 2.0})}
    assert "failed" not in twice.values()


def test_no_check_leaves_a_trace():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_part(Aligned)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_check_draws_the_same_whatever_was_drawn_before():
    drawn = []

    @framework.check("draws", "loss")
    def draws(subject):
        """It draws."""
        drawn.append((torch.rand(()).item(), np.random.rand(), random.random()))

    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        bind_checks(Subject(REGISTRY.entry("loss", "nt_xent"), REGISTRY), (draws,))[0]()
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_one_process_of_two_that_dies_is_reported():
    with pytest.raises(CheckFailed, match="of two died with exit code 7"):
        two_processes(os._exit, 7)
    assert [answer > 0 for answer in two_processes(os.getpid)] == [True, True]


def test_one_of_two_processes_starts_no_others(monkeypatch):
    """It would, while it imports a script whose checks stand at the top level."""
    monkeypatch.setattr(multiprocessing.current_process(), "name", "contrastive-kit-0")
    monkeypatch.setattr(processes, "Pair", None)
    with pytest.raises(processes.Unreachable, match="put the checks of a script under if __name__"):
        two_processes(os.getpid)


@pytest.mark.slow
def test_a_script_that_its_processes_import_starts_no_others(tmp_path):
    """Its checks stand at the top level: the processes skip theirs, and the script's own run."""
    script = tmp_path / "checks.py"
    script.write_text(
        "import multiprocessing\n"
        "from contrastive.losses import NTXent\n"
        "from contrastive.testing import part_checks\n"
        "[check] = [check for check in part_checks(NTXent) if check.check.name == 'processes']\n"
        "print(multiprocessing.current_process().name, check.result().status)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == [
        "MainProcess passed",
        "contrastive-kit-0 skipped",
        "contrastive-kit-1 skipped",
    ]


def test_every_check_states_its_promise_and_has_a_unique_name():
    for kind in (*KINDS, PLUGIN):
        names = [check.name for check in CHECKS if kind in check.kinds]
        assert len(names) == len(set(names))
        assert names
    for check in CHECKS:
        assert check.asked.endswith("."), check.name


def test_the_checks_of_one_kind_are_in_the_module_of_that_kind():
    for check in CHECKS:
        if len(check.kinds) == 1 and check.kinds != (PLUGIN,):
            (kind,) = check.kinds
            module = check.run.__module__.rpartition(".")[2]
            assert module == ("encoder" if kind in ("backbone", "head") else kind), check.name


def test_unknown_plugins_are_usage_errors():
    with pytest.raises(UsageError, match="no plugin 'contrastive-mocco' is installed"):
        check_plugin("contrastive-mocco")


# -- the command and the page -----------------------------------------------------------------------------

MODULE = '''\
"""Heads."""

from torch import nn

from contrastive import hookimpl
from contrastive.kinds import InFeatures
from contrastive.parts import Head

contrastive_api = 1


class Flat(Head):
    """One layer without bias{more}."""

    def __init__(self, in_features: InFeatures{parameter}):
        super().__init__()
        self.out_features, self.layer = in_features, nn.Linear(in_features, in_features, bias=False)

    def forward(self, h):
        return self.layer(h)


@hookimpl
def register_head(register):
    register("flat", Flat)
'''


def write_plugin(folder: Path, module: str, parameter: str = "") -> Path:
    folder.mkdir()
    (folder / f"{module}.py").write_text(MODULE.format(more="", parameter=parameter))
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{module}"\nversion = "0.3"\n'
        f'[project.entry-points.contrastive]\nheads = "{module}"\n'
    )
    return folder


@pytest.mark.slow
def test_the_command_passes_a_whole_plugin(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    assert main(["plugin", "check", str(write_plugin(tmp_path / "whole", "flat_whole"))]) == 0
    out = capsys.readouterr().out.strip().splitlines()
    assert re.fullmatch(r"passed \d+, failed 0, skipped \d+", out[-1])
    assert f"conformance kit {VERSION}" in out[0]
    assert "gradients" in {line.split()[0] for line in out[out.index("head flat") :]}
    results = [line for line in out[1:-1] if line not in ("plugin flat_whole", "head flat")]
    expected = len(checks(tmp_path / "whole"))
    assert len(results) == expected  # one line per check
    assert {re.split(r"  +", line)[1] for line in results} <= {"passed", "skipped"}
    assert main(["plugin", "check", str(tmp_path / "whole"), "--quick", "--verbose"]) == 0
    verbose = capsys.readouterr().out
    (promise,) = (check.asked for check in CHECKS if check.name == "documented")
    assert promise in " ".join(verbose.split())
    assert promise not in " ".join("\n".join(out).split())


@pytest.mark.ci
def test_the_command_fails_a_broken_one_with_3(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.path", list(sys.path))
    folder = write_plugin(tmp_path / "broken", "flat_broken", ", depth: int = 1")
    assert main(["plugin", "check", str(folder), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert (report["failed"], report["conformance"]) == (1, VERSION)
    (failed,) = [result for result in report["results"] if result["status"] == "failed"]
    assert (failed["part"], failed["check"]) == ("head flat", "documented")
    assert "depth" in failed["reason"]
    assert main(["plugin", "check", str(folder), "--quick"]) == 3
    lines = capsys.readouterr().out.splitlines()
    index = next(i for i, line in enumerate(lines) if line.split() == ["documented", "failed"])
    assert lines[index + 1] == f"    {failed['reason']}"  # the detail is below, and only there
    assert all(not line.startswith(" ") for line in lines[:index] + lines[index + 2 :])


def test_the_command_refuses_what_is_no_plugin_with_2(tmp_path, capsys):
    assert main(["plugin", "check", "nobody"]) == 2
    assert "no plugin 'nobody'" in capsys.readouterr().err
    assert main(["plugin", "check", str(tmp_path)]) == 2
    assert "pyproject.toml" in capsys.readouterr().err


def test_the_page_lists_every_check():
    text = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| ([\w, ]+) \| `([^`]+)` \| (.+) \|$", text, re.MULTILINE))
    assert rows == {(", ".join(check.kinds), check.name, check.asked) for check in CHECKS}


class FormerlyNamed(KNN):
    """A protocol whose author exempts a check by the name that it had."""

    unchecked = {"figures": "they are percentages"}  # noqa: RUF012


def test_a_check_is_exempt_by_its_former_name_too():
    (metrics,) = [check.result() for check in part_checks(FormerlyNamed) if check.check.name == "metrics"]
    assert (metrics.status, metrics.reason) == ("skipped", "not checked: they are percentages")
