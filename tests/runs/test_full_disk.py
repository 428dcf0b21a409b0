"""A disk that fills up, or may not be written: one sentence, the checkpoints kept, and on with room again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import contrastive
from contrastive.errors import ContrastiveError, UsageError
from contrastive.files import writable, write_whole
from contrastive.training import MetricsFile
from tests.test_kills import SHORT

FULL = Path("/dev/full")  # writes to it fail as on a full disk
needs_full = pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")
#: A mount that ends with its process, for a user who is no administrator too.
OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mount, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="this user may not mount a tmpfs of his own")
def test_a_disk_that_fills_up_at_any_write(tiny_recipe: Path, tmp_path: Path):
    """At each eighth change to the run folder; without ``--every`` the driver takes them all."""
    sets = [part for text in SHORT for part in ("--set", text)]
    driver = [sys.executable, "-m", "tests.support.injected", str(tiny_recipe), str(tmp_path / "runs")]
    mounted = f'mount -t tmpfs -o size=64m none "{tmp_path}" && exec "$@"'
    command = [*OWN_MOUNTS, "sh", "-c", mounted, "sh", *driver, *sets, "--fill", "--every", "8"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    _, *filled = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [said for _, code, said in filled if code == "1"]
    assert len(failed) >= 4
    for said in failed:
        assert said.startswith("error: ")
        assert "could not be written (No space left on device); free some space" in said or "backbone" in said


@needs_full
def test_a_line_of_metrics():
    with pytest.raises(ContrastiveError, match=r"/dev/full could not be written \(No space left on device\)"):
        MetricsFile(FULL).append({"step": 1})


def test_a_text_that_cannot_be_put_in_its_place_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "summary.json").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with (
        pytest.raises(ContrastiveError, match=r"summary\.json could not be written"),
        writable(tmp_path / "summary.json"),
    ):
        write_whole(tmp_path / "summary.json", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tiny_recipe: Path, tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(UsageError, match=r"cannot be written \(Permission denied\); name another"):
        contrastive.run(tiny_recipe, out=tmp_path / "closed" / "run")


def test_a_file_system_that_is_read_only(
    tiny_run: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where a finished run lies on one, it is reported still; anything else is refused by exit code 2."""

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert contrastive.run(tiny_recipe, out=tiny_run).summary["trained"]
    with pytest.raises(UsageError, match=r"cannot be written \(Read-only file system\)") as refused:
        contrastive.run(tiny_recipe, out=tmp_path / "run")
    assert refused.value.exit_code == 2
