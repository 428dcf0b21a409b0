"""A cache of the Hugging Face hub with random weights, as a download would leave it, and no network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

_REVISION = "0" * 40


class HubCache:
    """The cache that timm reads, in a folder.

    Args:
        folder: of the cache.
        monkeypatch: makes it the one that huggingface_hub reads, without a network.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_CACHE", str(folder))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def add(self, name: str, **record: Any) -> dict[str, torch.Tensor]:
        """Add random weights of a timm model under its tag: ``resnet18.a1_in1k``.

        Args:
            record: changes to timm's record of it, in the repository's config.json.

        Returns:
            The weights.
        """
        cfg = timm.get_pretrained_cfg(name)
        assert cfg is not None
        torch.manual_seed(0)
        net = timm.create_model(name.partition(".")[0], num_classes=cfg.num_classes)
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)  # batch norms that change something
        state = {key: value.contiguous() for key, value in net.state_dict().items()}
        snapshot = self._snapshot(cfg.hf_hub_id)
        save_file(state, snapshot / (cfg.hf_hub_filename or "model.safetensors"))
        keys = ("tag", "mean", "std", "interpolation", "crop_pct", "crop_mode", "input_size", "first_conv",
                "classifier", "license", "fixed_input_size", "num_classes")  # fmt: skip
        own = {key: getattr(cfg, key) for key in keys} | record
        config = {
            "architecture": cfg.architecture,
            "num_classes": cfg.num_classes,
            "pretrained_cfg": own,
        }
        (snapshot / "config.json").write_text(json.dumps(config))
        return state

    def add_folder(self, repository: str, folder: Path) -> None:
        """Add the files of a folder as a repository: ``owner/name``."""
        shutil.copytree(folder, self._snapshot(repository), dirs_exist_ok=True)

    def _snapshot(self, repository: str) -> Path:
        """The folder of the one revision of a repository."""
        path = self.folder / f"models--{repository.replace('/', '--')}"
        snapshot = path / "snapshots" / _REVISION
        snapshot.mkdir(parents=True)
        (path / "refs").mkdir()
        (path / "refs" / "main").write_text(_REVISION)
        return snapshot
