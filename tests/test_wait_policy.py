"""The command line lets OpenMP's threads sleep soon, unless the user has decided or torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from contrastive.wait_policy import POLICY, set_wait_policy


@pytest.fixture
def torch_is_not_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in POLICY:
        monkeypatch.delenv(name, raising=False)


def set_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in POLICY if name in os.environ}


def test_it_is_set_before_torch_is_loaded(torch_is_not_loaded):
    set_wait_policy()
    assert set_variables() == POLICY


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_the_users_values_win(torch_is_not_loaded, monkeypatch, own):
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    set_wait_policy()
    assert set_variables() == own


def test_it_is_left_alone_once_torch_is_loaded(torch_is_not_loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    set_wait_policy()
    assert set_variables() == {}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch has GNU's OpenMP on Linux alone")
def test_openmp_follows_it_in_a_command():
    environment = {name: value for name, value in os.environ.items() if name not in POLICY}
    process = subprocess.run(
        [sys.executable, "-c", "from contrastive.cli import main; main(['plugin', 'list']); import torch"],
        env={**environment, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    for name, value in POLICY.items():
        assert f"{name} = '{value}'" in process.stderr
