"""Checkpoints are whole or not at all, pruned to what is promised, and never run a stranger's code."""

from __future__ import annotations

import json
import pickle
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from contrastive.errors import ContrastiveError
from contrastive.training import Checkpoints


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, warnings: list[str]) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "f" * 64, warnings.append)


def test_round_trip(checkpoints: Checkpoints):
    state = {"weights": torch.randn(3, 4), "step": 7, "best": None, "names": ["a"]}
    checkpoints.save(7, state)
    loaded = checkpoints.newest()
    assert loaded is not None
    torch.testing.assert_close(loaded.pop("weights"), state.pop("weights"), rtol=0, atol=0)
    assert loaded == state


def test_the_manifest_names_what_it_holds(checkpoints: Checkpoints):
    folder = checkpoints.save(12, {"a": 1})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert folder.name == "step_00000012"
    assert manifest["step"] == 12
    assert manifest["fingerprint"] == "f" * 64
    assert manifest["world_size"] == 1
    assert manifest["versions"]["torch"] == metadata.version("torch")
    assert {"contrastive-framework", "timm", "accelerate"} < manifest["versions"].keys()
    assert manifest["files"]["state.pt"]["size"] == (folder / "state.pt").stat().st_size


def test_the_last_two_and_the_best_are_kept(checkpoints: Checkpoints):
    for step in (10, 20, 30, 40):
        checkpoints.save(step, {"step": step}, best_step=10)
    assert checkpoints.steps() == [10, 30, 40]
    checkpoints.save(50, {"step": 50}, best_step=50)
    assert checkpoints.steps() == [40, 50]


def test_saving_a_step_again_replaces_it(checkpoints: Checkpoints):
    checkpoints.save(5, {"due": True})
    checkpoints.save(5, {"due": False})
    assert checkpoints.newest() == {"due": False}
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step_00000005"]


def test_a_kill_in_the_midst_of_replacing_loses_nothing(checkpoints: Checkpoints):
    folder = checkpoints.save(5, {"due": True})
    aside = folder.rename(folder.with_name(".step_00000005.old"))
    assert checkpoints.newest() is None, "who only looks at a run moves nothing: it may be being written"
    assert aside.exists()
    assert checkpoints.take_up() == {"due": True}
    assert checkpoints.steps() == [5]


def test_taking_up_leaves_no_temporaries(checkpoints: Checkpoints):
    folder = checkpoints.save(5, {"due": True})
    for name in (".step_00000005.old", ".step_00000003.old", ".step_00000009.tmp"):
        (folder.parent / name).mkdir()
    (folder.parent / ".manifest.json.tmp").touch()
    checkpoints.take_up()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["step_00000003", "step_00000005"]


def test_what_is_pruned_is_whole_or_gone(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch):
    """A kill in the midst of removing a checkpoint leaves none that looks whole and is not."""
    for step in (1, 2):
        checkpoints.save(step, {"step": step})
    rmtree = shutil.rmtree

    def killed(path: Path, *arguments: Any, **options: Any) -> None:
        if "00000001" in str(path):
            raise KeyboardInterrupt
        rmtree(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(3, {"step": 3})
    assert checkpoints.steps() == [2, 3]


def test_a_damaged_one_makes_room_for_those_to_come(checkpoints: Checkpoints, warnings: list[str]):
    for step in (1, 2):
        checkpoints.save(step, {"step": step})
    (checkpoints.path(2) / "state.pt").write_bytes(b"")
    assert checkpoints.take_up() == {"step": 1}
    assert "step_00000002" in warnings[0]
    assert (checkpoints.folder / "damaged_step_00000002" / "manifest.json").is_file(), "nothing is lost"
    checkpoints.save(3, {"step": 3})
    assert checkpoints.steps() == [1, 3], "two that can be used"


def test_where_all_are_damaged_nothing_is_begun_anew(checkpoints: Checkpoints, warnings: list[str]):
    for step in (1, 2):
        (checkpoints.save(step, {"step": step}) / "state.pt").write_bytes(b"")
    with pytest.raises(ContrastiveError, match=r"none of the checkpoints can be used.*--resume never"):
        checkpoints.take_up()
    assert len(warnings) == 2
    assert checkpoints.steps() == [1, 2]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no_manifest", "bad_manifest", "no_state"])
def test_a_damaged_newest_falls_back_with_a_warning(
    checkpoints: Checkpoints, warnings: list[str], damage: str
):
    checkpoints.save(1, {"step": 1})
    folder = checkpoints.save(2, {"step": 2})
    state = folder / "state.pt"
    content = state.read_bytes()
    match damage:
        case "truncated":
            state.write_bytes(content[: len(content) // 2])
        case "flipped":
            state.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
        case "no_manifest":
            (folder / "manifest.json").unlink()
        case "bad_manifest":
            (folder / "manifest.json").write_text("{")
        case "no_state":
            state.unlink()
    assert checkpoints.newest() == {"step": 1}
    assert len(warnings) == 1
    assert str(folder) in warnings[0]


def test_a_checkpoint_of_another_run_is_passed_over(checkpoints: Checkpoints, warnings: list[str]):
    Checkpoints(checkpoints.folder, "another", warnings.append).save(1, {"step": 1})
    assert checkpoints.newest() is None
    assert "another run" in warnings[0]
    assert Checkpoints(checkpoints.folder, "", warnings.append).newest() == {"step": 1}, "no run asked for"


def test_an_unfinished_write_does_not_count(checkpoints: Checkpoints):
    checkpoints.save(1, {"step": 1})
    left_over = checkpoints.folder / ".step_00000002.tmp"
    left_over.mkdir()
    (left_over / "state.pt").write_bytes(b"half")
    assert checkpoints.newest() == {"step": 1}
    checkpoints.save(2, {"step": 2})  # the left-over is in nobody's way
    assert checkpoints.newest() == {"step": 2}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), RuntimeError("No space left: unexpected pos")]
)
def test_a_failed_write_keeps_what_was_there(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    """``torch.save`` raises a RuntimeError where the disk fills up while it writes."""
    checkpoints.save(1, {"step": 1})

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ContrastiveError, match="No space left"):
        checkpoints.save(2, {"step": 2})
    assert checkpoints.steps() == [1]
    assert checkpoints.newest() == {"step": 1}


class _Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_doctored_checkpoint_runs_no_code(
    checkpoints: Checkpoints, warnings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    folder = checkpoints.save(1, {"step": 1})
    torch.save({"payload": _Payload()}, folder / "state.pt", pickle_module=pickle)
    manifest = json.loads((folder / "manifest.json").read_text())
    import hashlib

    manifest["files"]["state.pt"]["sha256"] = hashlib.sha256((folder / "state.pt").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoints.newest() is None
    assert not Path("executed").exists()
    assert warnings
