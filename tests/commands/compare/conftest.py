"""Fixtures of the tests of ``contrastive compare``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from contrastive.commands.compare import runner as training
from contrastive.commands.compare.candidates import gather, plan
from contrastive.commands.compare.findings import analyse
from contrastive.registry import load_registry
from tests.support.fake_runs import write_run, write_runs


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs(tmp_path) -> Path:
    return tmp_path / "finished"


@pytest.fixture
def children(monkeypatch):
    """Runs that children would make, made by a fake; ``codes`` (name, seed) -> exit code other than 0."""
    made, codes = [], {}

    def run(recipe: Path, seed: int, folder: Path) -> int:
        made.append((recipe.stem, seed))
        if code := codes.get((recipe.stem, seed)):
            return code
        identity = {c.name: c for c in plan_of[-1]}[recipe.stem].identities[seed]
        write_run(folder.parent, folder.name.rpartition("-seed")[0], seed, 0.5 + seed / 10)
        shutil.rmtree(folder, ignore_errors=True)
        (folder.parent / f"{folder.name.rpartition('-seed')[0]}-seed{seed}").rename(folder)
        summary = json.loads((folder / "summary.json").read_text())
        judged = {"evaluate": identity.evaluate, "fingerprint": identity.fingerprint}
        (folder / "summary.json").write_text(json.dumps(summary | judged))
        environment = json.loads((folder / "environment.json").read_text())
        environment["fingerprint"] = identity.fingerprint
        (folder / "environment.json").write_text(json.dumps(environment))
        return 0

    plan_of = []
    monkeypatch.setattr(
        "contrastive.commands.compare.outcome.plan", lambda *a: plan_of.append(plan(*a)) or plan_of[-1]
    )
    monkeypatch.setattr(training, "_run", run)
    return made, codes


@pytest.fixture
def recipes(tiny_recipe) -> list[str]:
    for name in ("a", "b"):
        Path(f"{name}.yaml").write_text(tiny_recipe.read_text().replace("name: tiny", f"name: {name}"))
    return ["a.yaml", "b.yaml"]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> dict:
    runs = tmp_path_factory.mktemp("runs")
    folders = write_runs(runs, "base", [0.80, 0.82, 0.81]) + write_runs(
        runs, "worse", [0.70, 0.71, 0.73], recipe={"loss": {"name": "nt_xent", "note": "</script><b>&"}}
    )
    candidates = plan(folders, 1, load_registry())
    return json.loads(json.dumps(analyse(candidates, gather(candidates))))  # as comparison.json holds it
