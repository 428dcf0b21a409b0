"""``contrastive export --push``: what is uploaded, in which order, and what happens if it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from contrastive.backbones import Timm
from contrastive.cli import main
from contrastive.commands import export as module
from contrastive.commands.export import export
from contrastive.errors import UsageError
from contrastive.sklearn import Encoder
from tests.commands.test_model_card import card_of, features_by_card
from tests.support.hub_cache import HubCache


class Hub:
    """What huggingface_hub was called with, in place of the hub."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failure: Callable[[], Exception] | None = None):
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failure = failure
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", self.create_repo)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", self.upload_folder)

    def create_repo(self, repo_id: str, **arguments: Any) -> None:
        if self.failure is not None:
            raise self.failure()
        self.calls.append(("create_repo", {"repo_id": repo_id, **arguments}))

    def upload_folder(self, **arguments: Any) -> None:
        files = {path.name: path.read_bytes() for path in Path(arguments["folder_path"]).iterdir()}
        self.calls.append(("upload_folder", {**arguments, "files": files}))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "source"
    Timm(1, 28, "resnet10", stem="small", options={"width": 0.125}).export(str(folder))
    return folder


def refusal(status: int) -> HfHubHTTPError:
    """The error of an answer of the hub."""
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    Exception.__init__(error, "no")
    error.response = SimpleNamespace(status_code=status)  # of the HTTP library of the installed version
    return error


def test_a_repository_is_created_private_and_gets_the_whole_folder(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    hub = Hub(monkeypatch)
    out = tmp_path / "encoder"
    assert main(["export", str(weights), "--out", str(out), "--push", "me/encoder"]) == 0
    assert capsys.readouterr().out == f"{out}\nhttps://huggingface.co/me/encoder\n"
    (created, creation), (uploaded, upload) = hub.calls
    assert (created, uploaded) == ("create_repo", "upload_folder")
    assert creation == {"repo_id": "me/encoder", "private": True, "exist_ok": True}
    assert upload["repo_id"] == "me/encoder"
    assert upload["files"].keys() == {"config.json", "model.safetensors", "README.md"}
    assert upload["files"] == {path.name: path.read_bytes() for path in out.iterdir()}


def test_nothing_is_uploaded_without_push_or_if_the_export_fails(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub = Hub(monkeypatch)
    export(weights, tmp_path / "encoder")
    monkeypatch.setattr(module, "write_card", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UsageError, match="cannot be written"):
        export(weights, tmp_path / "other", push="me/encoder")
    assert hub.calls == []


@pytest.mark.parametrize(
    "name", ["encoder", "me/", "me/a/b", "https://huggingface.co/me/encoder", "me/a b", ""]
)
def test_what_is_no_whole_name_is_refused_before_anything_is_written(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    hub = Hub(monkeypatch)
    with pytest.raises(UsageError, match=r"is not the name of a repository; write OWNER/NAME"):
        export(weights, tmp_path / "encoder", push=name)
    assert hub.calls == []
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (lambda: OfflineModeIsEnabled("offline"), r"the hub is not used\. Unset HF_HUB_OFFLINE\."),
        (lambda: refusal(401), r"refuses the token .* Set HF_TOKEN to one"),
        (lambda: refusal(500), r"the hub answers HfHubHTTPError: no"),
        (lambda: ConnectionError("no route"), r"cannot be reached \(ConnectionError: no route\)\. Connect"),
        (lambda: HfHubHTTPError.__bases__[0]("no name"), r"cannot be reached \(HTTPError: no name\)"),
    ],
)
def test_a_failed_upload_is_one_sentence_and_the_export_stays(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Any, message: str
):
    hub = Hub(monkeypatch, failure)
    out = tmp_path / "encoder"
    with pytest.raises(UsageError, match=message) as caught:
        export(weights, out, push="me/encoder")
    assert str(caught.value).endswith(f"upload it by: hf upload me/encoder {out} --private")
    assert "\n" not in str(caught.value)
    assert (out / "model.safetensors").is_file()
    assert hub.calls == []


def test_a_missing_token_is_reported_before_the_hub_is_asked(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub = Hub(monkeypatch)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UsageError, match=r"no token .* Set HF_TOKEN or run `hf auth login`"):
        export(weights, tmp_path / "encoder", push="me/encoder")
    assert hub.calls == []
    assert (tmp_path / "encoder" / "README.md").is_file()


def test_what_was_pushed_is_an_encoder(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """timm, the code of its card and our own encoders load it from the hub, grey images included."""
    Hub(monkeypatch)
    out = export(weights, tmp_path / "encoder", push="me/encoder")
    HubCache(tmp_path / "hub", monkeypatch).add_folder("me/encoder", out)
    image = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    expected = Encoder(weights).transform([image])
    by_name = Encoder("hf_hub:me/encoder").transform([image])
    np.testing.assert_allclose(by_name, expected, atol=2e-2 * np.abs(expected).max())  # Pillow resizes
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "image.png")
    assert "hf_hub:me/encoder" in card_of(out).text
    by_timm, by_card = features_by_card(out, tmp_path / "image.png")
    np.testing.assert_allclose(by_card, by_name, atol=1e-5)
    np.testing.assert_allclose(by_timm, by_name, atol=1e-4 * np.abs(expected).max())
