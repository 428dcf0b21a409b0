"""From a composition to what trains and evaluates it."""

from __future__ import annotations

import pytest

from contrastive.errors import Interrupted
from contrastive.runs import assembly


def test_one_of_several_processes_does_not_stop_alone_while_it_decodes(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Interrupted):
        assembly._stop_decoding(lambda: True)(1, 10)
    monkeypatch.setattr(assembly, "world_size", lambda: 2)
    assembly._stop_decoding(lambda: True)(1, 10)
