"""Nothing a stranger hands over runs code: weights, exported backbones, run folders; one sentence each."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from contrastive.backbones import load_backbone
from contrastive.backbones.weights import load_weights, read_weights
from contrastive.cli import main
from contrastive.datasets import HuggingFace, Torchvision
from contrastive.errors import DataError, UnreadableImage, UsageError
from contrastive.runs import Run


class Payload:
    """A pickle of it touches the file ``executed`` when it is loaded by a loader that trusts it."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("executed").exists(), "a stranger's code has run"


def test_the_payload_is_armed():
    pickle.loads(pickle.dumps(Payload()))
    Path("executed").rmdir()


# -- weights to start from ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "evil.bin", "evil.pkl", "evil.safetensors"])
@pytest.mark.parametrize("form", ["zip", "pickle"])
def test_weights_that_are_a_pickle_of_code(name: str, form: str):
    if form == "zip":
        torch.save({"state_dict": Payload()}, name)
    else:
        Path(name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UsageError) as caught:
        read_weights(Path(name))
    assert name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    "state",
    [
        [torch.zeros(2, 2)],
        {"weight": [1.0, 2.0], "bias": torch.zeros(2)},
        {1: torch.zeros(2)},
        {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)},
        {"weight": torch.eye(2).to_sparse(), "bias": torch.zeros(2)},
        {"weight": torch.zeros(2, 2, device="meta"), "bias": torch.zeros(2)},
    ],
    ids=["list", "numbers", "keys", "shape", "sparse", "meta"],
)
def test_weights_of_another_shape_than_a_state_dict(state: Any):
    torch.save(state, "odd.pt")
    net = torch.nn.Linear(2, 2)
    before = net.weight.detach().clone()
    with pytest.raises(UsageError, match=r"odd\.pt"):
        load_weights(net, Path("odd.pt"))
    assert torch.equal(net.weight, before)


def test_a_data_set_that_unpickles_what_lies_about_is_refused():
    with pytest.raises(UsageError, match="unpickles"):
        Torchvision("LSUN", Path("lsun")).table("train")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return module


@pytest.mark.usefixtures("hub")
def test_the_reader_of_pickles_is_refused():
    Path("train.pkl").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UsageError, match=r"dataset\.path: 'pandas' unpickles"):
        HuggingFace("pandas").table("train")


@pytest.mark.parametrize("name", ["imagefolder", "./pandas"])
def test_a_folder_called_like_a_reader_of_the_library_is_that_folder(name: str, hub: Any):
    Path(name).mkdir()
    Image.new("RGB", (4, 4)).save(f"{name}/x.png")
    Image.new("RGB", (9, 9)).save("train.png")  # next to it: what that reader would find
    table = HuggingFace(name).table("train")
    assert table is not None
    assert [tuple(table.decode(row).shape) for row in range(len(table))] == [(3, 4, 4)]


@pytest.mark.usefixtures("hub")
def test_a_loading_script_next_to_a_table_is_not_run():
    folder = Path("stranger")
    folder.mkdir()
    (folder / "stranger.py").write_text("import os\nos.mkdir('executed')\n")
    (folder / "data.pkl").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataError, match="stranger: the data set cannot be loaded"):
        HuggingFace("stranger").table("train")


def test_rows_name_no_files_outside_their_data_set(hub: Any):
    for place in ("stranger", "private", "stranger-too"):
        Path(place).mkdir()
        Image.new("RGB", (4, 4)).save(f"{place}/x.png")
    Path("stranger/zero.png").symlink_to("/dev/zero")
    names = [
        "stranger/x.png",
        "private/x.png",
        "stranger/../private/x.png",
        "stranger-too/x.png",
        "/dev/zero",
    ]
    names.append("stranger/zero.png")
    rows = [{"bytes": None, "path": str(Path.cwd() / name)} for name in names]
    loaded = hub.Dataset.from_dict({"image": rows}, hub.Features(image=hub.Image()))
    with mock.patch.object(hub, "load_dataset", return_value={"train": loaded}):
        table = HuggingFace("stranger").table("train")
    assert table is not None
    assert table.decode(0).shape == (3, 4, 4)
    for row in range(1, 5):
        with pytest.raises(UnreadableImage, match="outside the data set"):
            table.decode(row)
    with pytest.raises(UnreadableImage, match="something that is not a file"):
        table.decode(5)


def test_a_folder_of_images_is_read_by_the_names_in_it(hub: Any):
    Path("photos").mkdir()
    Image.new("RGB", (4, 4)).save("photos/x.png")
    table = HuggingFace("photos").table("train")
    assert table is not None
    assert table.decode(0).shape == (3, 4, 4)


# -- an exported backbone ----------------------------------------------------------------------------------


def config(**changed: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: {**config, **changed}


def record(**changed: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: {**config, "pretrained_cfg": {**config["pretrained_cfg"], **changed}}


def arguments(**changed: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda config: {**config, "model_args": {**config["model_args"], **changed}}


REFUSED = {
    "an architecture on the hub": config(architecture="hf-hub:stranger/model"),
    "an architecture in a folder": config(architecture="local-dir:../other"),
    "a path": config(architecture="../../../etc/passwd"),
    "no architecture": config(architecture=None),
    "a list for an architecture": config(architecture=["resnet18"]),
    "a checkpoint": arguments(checkpoint_path="evil.pth"),
    "a checkpoint's record": arguments(pretrained_cfg={"file": "evil.pth"}),
    "a function": arguments(pretrained_filter_fn="os.system"),
    "a width below nought": arguments(width=-1e9),
    "a width without end": arguments(width=float("inf")),
    "arguments that are a list": config(model_args=["width"]),
    "a list": lambda config: [config],
    "a number": lambda config: float("nan"),
}
HARMLESS = {
    "a file": record(file="evil.pth"),
    "a file above": record(file="../evil.pth", source="file"),
    "an absolute file": record(file="/evil.pth", source="timm"),
    "an address": record(url="http://127.0.0.1:1/evil.pth", source=""),
    "the hub": record(hf_hub_id="stranger/model", hf_hub_filename="evil.pth", source="hf-hub"),
    "weights": record(state_dict={"conv1.weight": 0}),
    "a class": config(model_cls="os.system"),
}


@pytest.fixture
def backbone(tiny_run: Path) -> Path:
    """A copy to tamper with, next to pickles of code under every name that timm looks for."""
    folder = Path(shutil.copytree(tiny_run / "backbone", "stranger")).resolve()
    for name in ("pytorch_model.bin", "pytorch_model.pth", "model.pth", "evil.pth", "../evil.pth"):
        torch.save(Payload(), folder / name)
    return folder


def tamper(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_config_that_asks_for_what_is_not_an_architecture(kind: str, backbone: Path):
    tamper(backbone, REFUSED[kind])
    with pytest.raises(UsageError, match="stranger is not an exported backbone") as caught:
        load_backbone(backbone)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", HARMLESS)
def test_a_config_that_names_other_weights_gets_those_of_its_folder(
    kind: str, backbone: Path, tiny_run: Path
):
    tamper(backbone, HARMLESS[kind])
    ours, theirs = load_backbone(tiny_run / "backbone").state_dict(), load_backbone(backbone).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


@pytest.mark.parametrize("text", ["", "{", "\0", "[" * 100_000, '{"architecture": "resnet10_small"}'])
def test_a_config_that_is_none(text: str, backbone: Path):
    (backbone / "config.json").write_text(text)
    with pytest.raises(UsageError, match="stranger is not an exported backbone"):
        load_backbone(backbone)


def test_weights_of_a_backbone_that_are_none(backbone: Path):
    file = backbone / "model.safetensors"
    whole = file.read_bytes()
    torch.save(Payload(), "pickle.pt")
    headers = [(2**62).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]"]
    for content in (b"", whole[: len(whole) // 2], Path("pickle.pt").read_bytes(), *headers):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="stranger is not an exported backbone"):
            load_backbone(backbone)
    save_file({"conv1.weight": torch.zeros(3)}, file)
    with pytest.raises(UsageError, match="stranger is not an exported backbone"):
        load_backbone(backbone)


# -- a run folder ------------------------------------------------------------------------------------------


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step_*"))


def state(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """The newest checkpoint changed, with a manifest that agrees; the older ones removed."""

    def tamper(run: Path) -> None:
        *older, newest = checkpoints(run)
        for folder in older:
            shutil.rmtree(folder)
        file = newest / "state.pt"
        torch.save(change(torch.load(file, weights_only=True)), file)
        manifest = json.loads((newest / "manifest.json").read_text())
        manifest["files"]["state.pt"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        (newest / "manifest.json").write_text(json.dumps(manifest))

    return tamper


def weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return state(lambda tree: {**tree, "method": change(tree["method"])})


def manifest(text: str) -> Callable[[Path], None]:
    def tamper(run: Path) -> None:
        for folder in checkpoints(run):
            (folder / "manifest.json").write_text(text)

    return tamper


def recipe(content: bytes) -> Callable[[Path], None]:
    return lambda run: void((run / "recipe.yaml").write_bytes(content))


def void(_: Any) -> None: ...


def links(run: Path) -> None:
    for folder in checkpoints(run):
        (folder / "state.pt").unlink()
        (folder / "state.pt").symlink_to("/etc/hostname")


def first(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda tree: {
        name: change(value) if n == 0 else value for n, (name, value) in enumerate(tree.items())
    }


UNFIT, UNUSABLE, NO_WEIGHTS = "does not fit", "none of its checkpoints can be used", "no weights by name"
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a recipe that is no text": (recipe(b"\x89PNG\r\n\x00\xff"), "not UTF-8"),
    "a recipe that is a list": (recipe(b"- a\n"), "holds a list"),
    "a recipe that is empty": (recipe(b""), "empty"),
    "a recipe that builds objects": (recipe(b"name: !!python/object/apply:os.mkdir [executed]\n"), "tag"),
    "a state that is code": (state(lambda tree: {**tree, "method": Payload()}), UNUSABLE),
    "a state that is a list": (state(lambda tree: [tree]), NO_WEIGHTS),
    "a state without weights": (state(lambda tree: {}), NO_WEIGHTS),
    "weights that are a list": (weights(lambda tree: [*tree.values()]), NO_WEIGHTS),
    "weights by number": (weights(lambda tree: dict(enumerate(tree.values()))), NO_WEIGHTS),
    "weights that are text": (weights(first(lambda value: "text")), NO_WEIGHTS),
    "weights of a wrong shape": (weights(first(lambda value: value[:1])), UNFIT),
    "weights of wrong names": (weights(lambda tree: {f"x.{n}": value for n, value in tree.items()}), UNFIT),
    "no weights": (weights(lambda tree: {}), UNFIT),
    "a manifest that is a list": (manifest("[NaN]"), UNUSABLE),
    "a manifest of no number": (manifest('{"step": NaN, "fingerprint": "", "files": NaN}'), UNUSABLE),
    "a manifest without files": (manifest('{"step": 7, "fingerprint": ""}'), UNUSABLE),
    "a manifest of files elsewhere": (
        manifest('{"files": {"../../../state.pt": {"sha256": "0"}}}'),
        UNUSABLE,
    ),
    "a manifest nested without end": (manifest("[" * 100_000), UNUSABLE),
    "a state that is a link elsewhere": (links, UNUSABLE),
}


def told(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The error of a command that is refused, without the warnings before it."""
    assert main([*command]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    *warnings, message = shown.err.strip().splitlines()
    assert all(line.startswith("warning: ") for line in warnings), shown.err
    assert len(message) < 500
    return message


@pytest.fixture
def run(tiny_run: Path) -> Path:
    """A copy of a run to tamper with, without the backbone it exported."""
    return Path(shutil.copytree(tiny_run, "run", ignore=shutil.ignore_patterns("backbone")))


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_run_folder(kind: str, run: Path, capsys: pytest.CaptureFixture[str]):
    tamper, why = HOSTILE[kind]
    tamper(run)
    capsys.readouterr()
    commands = [
        ["evaluate", "run", "--json"],
        ["embed", "run", "--out", "f.parquet"],
        ["export", "run", "--out", "e"],
    ]
    for command in commands:
        assert why in told(capsys, *command)
    assert not Path("f.parquet").exists()
    assert not Path("e").exists()


def test_folders_that_look_like_checkpoints_are_none(run: Path):
    before = Run(run).weights()
    for name in ("step_²", "step_1e9", "step_-0000001", "step_٣٣٣٣٣٣٣٣", "step_" + "9" * 50):
        (run / "checkpoints" / name).mkdir()
    after = Run(run).weights()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if HOSTILE[kind][1] in (UNFIT, NO_WEIGHTS)])
def test_a_hostile_checkpoint_is_not_gone_on_from(
    kind: str, run: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
):
    (run / "summary.json").unlink()
    HOSTILE[kind][0](run)
    capsys.readouterr()
    assert main(["run", str(tiny_recipe), "--out", "run"]) == 2
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert "run: its checkpoint does not fit the recipe" in shown.err
    assert len(shown.err.strip().splitlines()) == 1


@pytest.mark.parametrize("text", ["[]", "NaN", "{", "[" * 100_000, "\0"])
def test_a_summary_that_is_none(text: str, run: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]):
    (run / "summary.json").write_text(text)
    assert "summary.json is damaged" in told(capsys, "run", str(tiny_recipe), "--out", "run")


@pytest.mark.parametrize("place", ["backbone/config.json", "backbone/more/secret", "backbone"])
def test_what_lies_outside_is_not_exported(
    place: str, run: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
):
    """A link to a user's private file would be copied into what they publish."""
    Path("private").mkdir()
    Path("private/key").write_text("secret")
    if place != "backbone":
        shutil.copytree(tiny_run / "backbone", run / "backbone")
        (run / place).parent.mkdir(exist_ok=True)
        (run / place).unlink(missing_ok=True)
    (run / place).symlink_to(Path("private").resolve() / ("" if place == "backbone" else "key"))
    assert f"run/{place} is not a regular file and is not exported" in told(
        capsys, "export", "run", "--out", "exported"
    )
    assert not Path("exported").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_stop_an_export_for_ever(run: Path, capsys: pytest.CaptureFixture[str]):
    (run / "backbone").mkdir()
    os.mkfifo(run / "backbone" / "config.json")
    assert "is not a regular file and is not exported" in told(capsys, "export", "run", "--out", "exported")
