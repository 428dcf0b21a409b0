"""Checkpoints are whole or not at all, pruned to what is promised, and never run a stranger's code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from contrastive.checkpoints import Checkpoints
from contrastive.errors import ContrastiveError


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
    folder.rename(folder.with_name(".step_00000005.old"))
    assert checkpoints.newest() == {"due": True}
    assert checkpoints.steps() == [5]


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
