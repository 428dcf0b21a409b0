"""Settings for every test: repeatable property tests, and one thread a worker under xdist."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
