"""The global state of a process, which parts must not change: generators, dtype, threads, grad mode."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

#: The one generator that a torch module may draw from: the engine seeds it at every step.
TORCH = "torch's default generator"


def snapshot() -> dict[str, Any]:
    """The state that parts must not change: name -> value, comparable with ``==``."""
    return {
        "python's random": random.getstate(),
        "numpy's global generator": _plain(np.random.get_state()),
        TORCH: torch.get_rng_state().numpy().tobytes(),
        "torch's default dtype": torch.get_default_dtype(),
        "the number of torch's threads": torch.get_num_threads(),
        "torch's grad mode": torch.is_grad_enabled(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's anomaly mode": torch.is_anomaly_enabled(),
    }


def differing_names(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the values that differ between two snapshots."""
    return [name for name in before if before[name] != after[name]]


@contextmanager
def isolated_state() -> Iterator[None]:
    """Set generators to seed 0, so that checks are deterministic, and restore everything afterwards."""
    python, legacy, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    dtype, deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    anomaly = torch.is_anomaly_enabled()
    try:
        random.seed(0)
        np.random.seed(0)
        with fixed_seed(0), torch.enable_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic)
        torch.autograd.set_detect_anomaly(anomaly)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def fixed_seed(seed: int) -> Iterator[None]:
    """Set torch's default generator to ``seed``, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _plain(state: Any) -> tuple[Any, ...]:
    name, keys, *rest = state
    return (name, keys.tobytes(), *rest)
