"""Remedies of messages about the upload of an export, and about the transformer of scikit-learn."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import huggingface_hub
import numpy as np
import pytest

from contrastive.backbones import Timm
from contrastive.commands.export import export
from contrastive.sklearn import Encoder
from tests.commands.test_publication import Hub, refusal
from tests.support.remedies import Remedy, require_extra


def folder() -> Path:
    path = Path("encoder")
    if not path.is_dir():
        Timm(3, 16, "resnet10", stem="small", options={"width": 0.125}).export(str(path))
    return path


def pushed(repository: str = "me/encoder", token: str | None = "token", failure: Any = None) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        Hub(monkeypatch, failure)
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
        export(folder(), Path(tempfile.mkdtemp(dir=".")), push=repository)


def transformed(images: Any) -> None:
    Encoder(folder()).transform(images)


def imported(is_installed: bool) -> None:
    absent = {} if is_installed else {"sklearn.base": None}
    with mock.patch.dict(sys.modules, absent):
        sys.modules.pop("contrastive.sklearn", None)
        import_module("contrastive.sklearn")


def after_installing(message: str) -> bool:
    require_extra(message, ("scikit-learn",))
    return True


def broken() -> list[Any]:
    Path("broken.png").write_bytes(b"")
    return [picture(), "broken.png"]


def picture() -> np.ndarray:
    return np.zeros((20, 20, 3), np.uint8)


def with_token(token: str | None) -> None:
    pushed(token=token)


def refused(failure: Callable[[], Exception] | None) -> None:
    pushed(failure=failure)


PUBLICATION, SKLEARN = "commands/publication.py", "contrastive/sklearn.py"
REMEDIES = [
    Remedy(PUBLICATION, "write OWNER/NAME", pushed, "encoder", "me/encoder"),
    Remedy(PUBLICATION, "no token of the Hugging Face hub", with_token, None, "token"),
    Remedy(PUBLICATION, "refuses the token", refused, lambda: lambda: refusal(403), None),
    Remedy(SKLEARN, "needs scikit-learn", imported, False, after_installing),
    Remedy(SKLEARN, "; repair or remove", transformed, broken, lambda _: [picture()]),
    Remedy(SKLEARN, "put the one image into a list", transformed, "one.png", lambda _: [picture()]),
    Remedy(SKLEARN, "; give a path", transformed, lambda: [3], lambda _: [picture()]),
]


@pytest.mark.parametrize("remedy", REMEDIES, ids=str)
def test_remedy(remedy: Remedy):
    remedy.follow()
