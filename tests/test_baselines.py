"""What commit 1a738a1 wrote (tests/baselines) still works: run folders, exports, plugins, fingerprints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from compare_weights import RECIPES, differences, digest, digests
from make_baselines import BASELINES, FINISHED, INTERRUPTED, fingerprints, machine, write_stand_ins

import contrastive
from contrastive.cli import main
from tests.support.plugin_packages import install, on_path

ROOT = Path(__file__).resolve().parents[1]
RUNS, EXPORTS, PLUGINS = (BASELINES / name for name in ("run_folders", "exports", "plugins"))
FINGERPRINTS: dict[str, dict[str, str]] = json.loads((BASELINES / "fingerprints.json").read_text())
#: Names a checkout to compare weights with, see test_weights_are_those_of_another_checkout.
CHECKOUT = "CONTRASTIVE_COMPARE_CHECKOUT"


@pytest.fixture(autouse=True)
def one_thread():
    """The baselines were computed in one thread, and the number of threads changes the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def same_machine() -> bool:
    """Whether results must agree to the last bit: same processor and torch as the baselines."""
    return machine() == json.loads((BASELINES / "machine.json").read_text())


def copied(name: str, tmp_path: Path) -> Path:
    """A copy of a run folder, which may be written to."""
    return shutil.copytree(RUNS / name, tmp_path / name)


def recipe(name: str) -> Path:
    return BASELINES / "recipes" / f"{name}.yaml"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """The JSON object that a command prints."""
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def assert_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], exact: bool) -> None:
    """Equal to the last bit, or nearly so."""
    assert a.keys() == b.keys()
    if exact:
        assert not differences(*({k: digest(v) for k, v in weights.items()} for weights in (a, b)))
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-2, atol=3e-2, msg=name)


def assert_lines_hold(lines: list[dict[str, Any]], old: list[dict[str, Any]]) -> None:
    """Each line has the keys of the old one; lines of evaluations may have more."""
    assert len(lines) == len(old)
    for now, before in zip(lines, old, strict=True):
        assert now.keys() >= before.keys()
        assert "loss" not in before or now.keys() == before.keys()


# -- run folders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FINISHED, INTERRUPTED])
def test_a_run_folder_is_small_and_names_no_path_of_a_machine(name: str):
    files = content(RUNS / name)
    assert sum(map(len, files.values())) < 300 * 1024
    assert ("summary.json" in files) == (name in FINISHED)
    for path, data in files.items():
        assert not any(root in data for root in (b"/home/", b"/tmp/", b"/root/", b"/work", b"/Users/")), path


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_is_reported_and_not_trained_again(name: str, tmp_path: Path, capsys):
    folder = copied(name, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path != folder}
    report = printed(capsys, "run", recipe(name), "--out", folder)
    summary = json.loads((RUNS / name / "summary.json").read_text())
    assert report == {"run": str(folder), **summary}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path != folder} == before
    assert content(folder) == content(RUNS / name)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(tmp_path: Path, same_machine: bool):
    folder = copied(INTERRUPTED, tmp_path)
    assert not contrastive.Run(folder).summary
    lines = (folder / "metrics.jsonl").read_text()
    run = contrastive.run(recipe(INTERRUPTED), out=folder, resume="must")
    assert (folder / "metrics.jsonl").read_text().startswith(lines), "the steps before were not taken again"
    whole = contrastive.run(recipe(INTERRUPTED), out=tmp_path / "whole")
    assert run.summary["steps"] == whole.summary["steps"] == 15
    assert run.summary["fingerprint"] == whole.summary["fingerprint"]
    assert_weights(run.weights(), whole.weights(), same_machine)


@pytest.mark.parametrize("name", [name for name in FINISHED if name != "moco_v2"])
def test_todays_code_trains_the_same(name: str, tmp_path: Path, same_machine: bool):
    run, old = contrastive.run(recipe(name), out=tmp_path / "run"), contrastive.Run(RUNS / name)
    assert run.summary["fingerprint"] == old.summary["fingerprint"]
    for row in ("trained", "untrained", "pixels"):
        own = {key: run.summary[row][key] for key in old.summary[row]}  # later versions have more
        assert own == pytest.approx(old.summary[row], abs=1e-6 if same_machine else 0.05), row
    assert_lines_hold(run.metrics, old.metrics)
    for ours, theirs in zip(run.metrics, old.metrics, strict=True):
        if "loss" in ours:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6 if same_machine else 0.05)
    assert_weights(run.weights(), old.weights(), same_machine)


def test_groups_that_pass_at_once_differ_by_rounding_from_groups_that_pass_one_by_one(tmp_path: Path):
    """The rounding of ``split_bn`` grows while the rate rises, as between one thread and two."""
    run, old = contrastive.run(recipe("moco_v2"), out=tmp_path / "run"), contrastive.Run(RUNS / "moco_v2")
    assert run.summary["fingerprint"] == old.summary["fingerprint"]
    assert_lines_hold(run.metrics, old.metrics)
    losses, old_losses = ([line["loss"] for line in r.metrics if "loss" in line] for r in (run, old))
    assert losses[:6] == pytest.approx(old_losses[:6], rel=1e-4, abs=1e-6)
    assert losses == pytest.approx(old_losses, rel=0.05, abs=1e-6)


@pytest.mark.parametrize("name", FINISHED)
def test_evaluate_gives_the_metrics_of_the_summary(name: str, tmp_path: Path, capsys, same_machine: bool):
    summary = json.loads((RUNS / name / "summary.json").read_text())
    report = printed(capsys, "evaluate", copied(name, tmp_path))
    for row in ("trained", "untrained", "pixels"):
        own = {key: report[row][key] for key in summary[row]}  # later versions have more
        assert own == pytest.approx(summary[row], abs=1e-6 if same_machine else 0.05), row
    assert report["split"] == summary["split"]
    for name, protocol in summary["protocols"].items():
        assert {key: report["protocols"][name][key] for key in protocol} == protocol


def test_embed_gives_the_same_features(tmp_path: Path, capsys):
    out = tmp_path / "embedded.parquet"
    report = printed(capsys, "embed", copied("simclr", tmp_path), "--out", out)
    assert report["rows"] == 220
    table, old = pq.read_table(out), pq.read_table(EXPORTS / "embedded.parquet")
    assert table.schema.equals(old.schema)
    assert table.drop_columns("features").equals(old.drop_columns("features"))
    features = [np.array(each["features"].to_pylist()) for each in (table, old)]
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-5)


# -- exports ---------------------------------------------------------------------------------------


def assert_timm_features(folder: Path) -> None:
    with np.load(EXPORTS / "features.npz") as arrays:
        images, features = arrays["images"], arrays["timm"]
    with torch.no_grad():
        h = contrastive.load_backbone(folder)(torch.from_numpy(images.astype(np.float32) / 255))
    np.testing.assert_allclose(h.numpy(), features, rtol=1e-4, atol=1e-5)


def assert_onnx_features(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    with np.load(EXPORTS / "features.npz") as arrays:
        images, features = arrays["images"], arrays["onnx"]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    (h,) = session.run(["features"], {"pixels": images.astype(np.float32) / 255})
    np.testing.assert_allclose(h, features, rtol=1e-4, atol=1e-5)


CHECKED = {"timm": assert_timm_features, "onnx": assert_onnx_features}


@pytest.mark.parametrize("form", CHECKED)
def test_an_export_loads_and_gives_the_same_features(form: str):
    CHECKED[form](EXPORTS / form)


@pytest.mark.slow
@pytest.mark.parametrize("form", CHECKED)
def test_a_finished_run_exports_to_the_same_features(form: str, tmp_path: Path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    folder = copied("simclr", tmp_path)
    assert main(["export", str(folder), "--format", form, "--out", str(tmp_path / "export")]) == 0
    CHECKED[form](tmp_path / "export")
    assert content(tmp_path / "export").keys() == content(EXPORTS / form).keys()


# -- plugins ---------------------------------------------------------------------------------------

PACKAGES = sorted(str(path.parent.relative_to(PLUGINS)) for path in PLUGINS.glob("*/*/pyproject.toml"))
FAST = ("examples/dataset", "new/my-callback", "shipped/contrastive-negatives")
#: Every check but that with two processes, which takes a third of the time; prints what failed.
QUICK_CHECK = """
import sys
import contrastive.testing
failures = []
for package in sys.argv[1:]:
    checks = contrastive.testing.checks(package)
    results = [check.result() for check in checks if not str(check).endswith(": processes")]
    failures += [f"{each.part}: {each.check}: {each.reason}" for each in results if each.status == "failed"]
    failures += [f"{package}: {len(results)} checks"] * (len(results) < 10)
sys.exit("\\n".join(failures) or 0)
"""


def run_apart(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own: it imports the modules of a plugin's folder, not what is installed."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)


def test_every_plugin_is_there():
    groups = [package.split("/")[0] for package in PACKAGES]
    assert [groups.count(group) for group in ("shipped", "examples", "new")] == [3, 5, 10]


@pytest.mark.slow
def test_a_plugin_of_each_group_passes_all_checks_but_one():
    process = run_apart("-c", QUICK_CHECK, *(str(PLUGINS / package) for package in FAST))
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_a_plugin_passes_the_conformance_kit_as_it_was(package: str):
    process = run_apart("-m", "contrastive", "plugin", "check", str(PLUGINS / package), "--json")
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    report = json.loads(process.stdout)
    assert report["failed"] == 0
    assert report["passed"] >= 5


@pytest.mark.slow
def test_the_tests_of_new_packages_pass_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    packages = shutil.copytree(PLUGINS / "new", tmp_path / "packages")
    site = tmp_path / "site"
    site.mkdir()
    for package in packages.iterdir():
        install(package, site)
    on_path(site, monkeypatch)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    command += [str(packages), "-k", "not conformance"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stdout[-5000:]


# -- fingerprints ----------------------------------------------------------------------------------

#: Recipes in folders build large nets, so one of them stands for all in .ci/run.
QUICK = ("cifar10/simclr",)
SLOW = [name for name in FINGERPRINTS if "/" in name and name not in QUICK]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the shipped recipes read."""
    folder = tmp_path_factory.mktemp("stand_ins")
    write_stand_ins(folder)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW) + [pytest.mark.ci] * (name in QUICK))
        for name in FINGERPRINTS
    ],
)
def test_a_shipped_recipe_keeps_its_fingerprint(name: str, stand_ins: Path):
    assert fingerprints(name, stand_ins) == FINGERPRINTS[name]


# -- weights ---------------------------------------------------------------------------------------


def test_compare_weights_notices_one_bit(tmp_path: Path):
    weights = {"w": torch.zeros(3), "n": torch.tensor(0), "flag": torch.zeros(2, dtype=torch.bool)}
    other = {**weights, "w": torch.tensor([0.0, 0.0, -0.0])}
    for name, model in (("a", weights), ("b", other)):
        checkpoint = tmp_path / name / "checkpoints" / "step_00000020"
        checkpoint.mkdir(parents=True)
        torch.save({"method": model}, checkpoint / "state.pt")
    a, b = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert differences(a, b) == ["w"]
    assert differences(a, a) == []
    assert differences(a, {"w": a["w"]}) == ["flag", "n"]
    assert digest(torch.zeros(2)) != digest(torch.zeros(1, 2))


@pytest.mark.slow
@pytest.mark.skipif(CHECKOUT not in os.environ, reason=f"{CHECKOUT} names no checkout")
@pytest.mark.parametrize("name", RECIPES)
def test_weights_are_those_of_another_checkout(name: str):
    """After 20 steps of the real recipes. ``CONTRASTIVE_COMPARE_CHECKOUT=DIR pytest -k checkout``."""
    command = [
        sys.executable,
        str(ROOT / "scripts/compare_weights.py"),
        "--against",
        os.environ[CHECKOUT],
        name,
    ]
    process = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert process.returncode == 0, process.stdout + process.stderr
