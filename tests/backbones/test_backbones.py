import inspect
import json
import os
import subprocess
import sys
import typing

import pydantic
import pytest
import timm
import torch
from torch import nn

import contrastive.timm_models  # noqa: F401 - registers the small stems
from contrastive.backbones import Timm, Torchvision, load_backbone
from contrastive.errors import UsageError

SMALL = {"model": "resnet10", "stem": "small", "options": {"width": 0.25}}


def images(channels=3, size=32, n=4):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def trained(net, channels=3, size=32):
    """Weights and running statistics that differ from any initial ones."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
        net.train()(images(channels, size))
    return net.eval()


# ---------------------------------------------------------------- small stems


@pytest.mark.parametrize("depth", [10, 18, 34, 50])
def test_small_stem_has_the_state_of_timms_resnet(depth):
    small = timm.create_model(f"resnet{depth}_small", num_classes=10)
    standard = timm.models.resnet.ResNet(
        type(small.layer1[0]), tuple(len(getattr(small, f"layer{i}")) for i in (1, 2, 3, 4)), num_classes=10
    )
    shapes = {name: t.shape for name, t in small.state_dict().items()}
    want = {name: t.shape for name, t in standard.state_dict().items()}
    assert list(shapes) == list(want)
    assert shapes.pop("conv1.weight") == (64, 3, 3, 3)
    want.pop("conv1.weight")
    assert shapes == want


def test_small_stem_keeps_resolution_and_halves_width():
    net = timm.create_model("resnet18_small", in_chans=1, num_classes=0, width=0.5, stem_stride=2)
    assert [net.conv1.weight.shape, net.conv1.stride, net.conv1.bias] == [(32, 1, 3, 3), (2, 2), None]
    assert isinstance(net.maxpool, nn.Identity)
    assert net.num_features == 256
    assert net.forward_features(images(1)).shape == (4, 256, 2, 2)
    full = timm.create_model("resnet18_small", num_classes=0)
    assert full.forward_features(images()).shape == (4, 512, 4, 4)
    assert sum(p.numel() for p in full.parameters()) == pytest.approx(11.17e6, rel=1e-3)  # facts of ResNet-18


def test_small_stem_tells_its_reductions():
    net = timm.create_model("resnet10_small", features_only=True, stem_stride=2)
    sizes = [32 // feature.shape[-1] for feature in net.eval()(images())]
    assert net.feature_info.reduction() == sizes == [2, 2, 4, 8, 16]


def test_small_stem_draws_its_weights_as_timm_does():
    torch.manual_seed(0)
    weight = timm.create_model("resnet18_small").conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)  # Kaiming, fan out


# ---------------------------------------------------------------- timm


@pytest.mark.parametrize(
    ("channels", "size", "kwargs", "features"),
    [
        (3, 32, {"model": "resnet18"}, 512),
        (1, 28, {"model": "resnet18", "stem": "small", "options": {"width": 0.5}}, 256),
        (4, 32, {"model": "mobilenetv3_small_050"}, 1024),
        (3, 32, {"model": "test_vit"}, 64),
        (1, 28, {"model": "vit_tiny_patch16_224", "options": {"patch_size": 4, "depth": 2}}, 192),
        (3, 32, {"model": "vit_tiny_patch16_224", "options": {"depth": 2}}, 192),
    ],
)
def test_any_timm_model_gives_features(channels, size, kwargs, features):
    backbone = Timm(channels, size, **kwargs)
    assert backbone.training
    assert backbone.features == features
    assert backbone(images(channels, size)).shape == (4, features)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"model": "resnet81"}, "Did you mean 'resnet18'"),
        ({"model": "local-dir:x"}, "a folder of weights, not a model"),
        ({"model": "vgg11", "stem": "small"}, "no small stem; ResNets of depth 10, 18, 34"),
        ({"model": "resnet18", "options": {"widht": 2}}, "widht"),
        ({"model": "resnet18", "options": {"act_layer": "rely"}}, "timm cannot build resnet18"),
        ({"model": "resnet18", "options": {"in_chans": 1}}, "'in_chans' follows from the data"),
        ({"model": "resnet18", "options": {"pretrained": True}}, "or 'weights' to a local file"),
        ({"model": "resnet18", "mean": [0.1, 0.2]}, "mean: give one value or 3"),
        ({"model": "vit_tiny_patch16_224", "options": {"depth": 1}, "image_size": 28}, "multiple of 16"),
        ({"model": "test_vit", "image_size": 28}, "16"),
        ({"model": "resnet18", "options": {"global_pool": ""}}, "not one vector"),
    ],
)
def test_wrong_parameters_give_one_sentence(kwargs, message):
    with pytest.raises(UsageError, match=message) as caught:
        Timm(**{"in_channels": 3, "image_size": 32, **kwargs})
    assert "\n" not in str(caught.value)


def test_normalisation_is_applied_once_and_kept_out_of_the_state():
    backbone = Timm(3, 32, mean=[0.5, 0.4, 0.3], std=[0.2], **SMALL).eval()
    x = images()
    normalised = (x - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.2
    torch.testing.assert_close(backbone(x), backbone.net(normalised))
    assert all(name.startswith("net.") for name in backbone.state_dict())


@pytest.mark.parametrize("part", [Timm, Torchvision])
def test_signatures_evaluate_and_validate_their_defaults(part):
    hints = typing.get_type_hints(part.__init__, include_extras=True)
    for name, parameter in inspect.signature(part).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            pydantic.TypeAdapter(hints[name], config={"strict": True}).validate_python(parameter.default)


# ---------------------------------------------------------------- weights


def test_weights_come_from_folder_safetensors_and_plain_pickle(tmp_path):
    from safetensors.torch import save_file

    source = trained(Timm(3, 32, **SMALL))
    state = source.net.state_dict()
    source.export(str(tmp_path / "folder"))
    save_file(state | {"fc.weight": torch.zeros(10, 128)}, tmp_path / "with_classifier.safetensors")
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    for name in ("folder", "with_classifier.safetensors", "plain.pt", "wrapped.pth"):
        backbone = Timm(3, 32, weights=tmp_path / name, **SMALL).eval()
        assert torch.equal(backbone(images()), source(images())), name


class Harmful:
    def __reduce__(self):
        return (os.system, ("echo executed > executed",))


def test_weights_that_do_not_fit_are_named_and_none_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = Timm(3, 32, **SMALL).net.state_dict()
    torch.save({name: t for name, t in state.items() if name != "bn1.weight"}, "lacking.pt")
    torch.save(Timm(1, 32, **SMALL).net.state_dict(), "gray.pt")
    torch.save({"weights": Harmful()}, "harmful.pt")
    torch.save([1, 2], "list.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "text.pt").write_text("hello")  # to the unpickler: take what was never put
    torch.save({1: torch.ones(1)}, "numbers.pt")
    for name, message in {
        "lacking.pt": "lacks bn1.weight",
        "gray.pt": r"has conv1.weight \[16, 1, 3, 3\], the model \[16, 3, 3, 3\]",
        "harmful.pt": "cannot be read as plain tensors",
        "list.pt": "does not hold a state dict",
        "numbers.pt": "does not hold a state dict",
        "text.pt": "cannot be read as plain tensors",
        "cut.safetensors": "cannot be read",
        "empty": "has no model.safetensors",
        "notes.txt": "neither",
        "absent.pt": "does not exist",
    }.items():
        with pytest.raises(UsageError, match=message):
            Timm(3, 32, weights=tmp_path / name, **SMALL)
    assert not (tmp_path / "executed").exists()


# ---------------------------------------------------------------- export

EXPORTS = {
    "standard": (3, 64, {"model": "resnet18"}),
    "small": (1, 28, {"model": "resnet18", "stem": "small", "options": {"width": 0.5, "stem_stride": 2}}),
    "normalised": (3, 32, {"mean": [0.5], "std": [0.2], **SMALL}),
    "transformer": (3, 32, {"model": "vit_tiny_patch16_224", "options": {"patch_size": 8, "depth": 2}}),
}

FRESH = """
import json, sys, torch, timm
torch.set_num_threads(1)
for name in ("standard", "transformer", "small", "normalised"):
    if name == "small":
        assert "contrastive" not in sys.modules
        import contrastive.timm_models
    net = timm.create_model("local-dir:{root}/" + name, pretrained=True).eval()
    kept = torch.load("{root}/" + name + ".pt", weights_only=True)
    cfg = net.pretrained_cfg
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    normalise = transform.transforms[-1]
    with torch.no_grad():
        assert torch.equal(net(torch.stack([normalise(x) for x in kept["x"]])), kept["h"]), name
print("all equal")
"""


@pytest.mark.slow
def test_exports_load_in_a_fresh_process_with_bit_equal_features(tmp_path):
    """First those that timm loads alone, then those that need the registration of a model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, (channels, size, kwargs) in EXPORTS.items():
        backbone = trained(Timm(channels, size, **kwargs), channels, size)
        backbone = backbone.to(memory_format=torch.channels_last) if name == "small" else backbone
        backbone.export(str(tmp_path / name))
        x = images(channels, size)
        contiguous = backbone.to(memory_format=torch.contiguous_format)
        with torch.no_grad():
            torch.save({"x": x, "h": contiguous(x)}, tmp_path / f"{name}.pt")
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == [
            "README.md",
            "config.json",
            "model.safetensors",
        ]
        readme = (tmp_path / name / "README.md").read_text()
        assert ("import contrastive.timm_models" in readme) == ("stem" in kwargs)
        cfg = json.loads((tmp_path / name / "config.json").read_text())["pretrained_cfg"]
        assert cfg["input_size"] == [channels, size, size]
        assert cfg["mean"] == [0.5 if "mean" in kwargs else 0.0] * channels
        assert "a1_in1k" not in json.dumps(cfg)  # no word of weights that these are not
    torch.set_num_threads(threads)
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH.format(root=tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert fresh.stdout.strip().endswith("all equal"), fresh.stdout


def test_load_backbone_gives_the_exported_encoder(tmp_path):
    backbone = trained(Timm(1, 28, weights=None, **SMALL), 1, 28)
    backbone.export(str(tmp_path / "backbone"))
    net = load_backbone(tmp_path / "backbone")
    assert not net.training
    assert net.pretrained_cfg["input_size"] == (1, 28, 28)
    assert torch.equal(net(images(1, 28)), backbone(images(1, 28)))


def test_load_backbone_refuses_what_is_not_one(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json"):
        load_backbone(tmp_path / "absent")
    (tmp_path / "config.json").write_text('{"architecture": "no_such_model", "num_classes": 0}')
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"no model\.safetensors"):
        load_backbone(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UsageError, match="no_such_model"):
        load_backbone(tmp_path)
    (tmp_path / "config.json").write_text(
        '{"architecture": "test_resnet", "num_classes": 0, "pretrained_cfg": {}}'
    )
    with pytest.raises(UsageError, match="timm can load"):
        load_backbone(tmp_path)
    for content in ("{", "[]", "\xff", '{"architecture": 3}'):
        (tmp_path / "config.json").write_text(content, encoding="latin-1")
        with pytest.raises(UsageError, match="timm can load"):
            load_backbone(tmp_path)


def test_export_leaves_the_backbone_as_it_was_and_refuses_a_file(tmp_path):
    backbone = Timm(3, 32, **SMALL).to(memory_format=torch.channels_last)
    before = dict(backbone.net.pretrained_cfg)
    backbone.export(str(tmp_path / "a" / "b"))
    assert backbone.net.pretrained_cfg == before
    assert backbone.net.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a folder"):
        backbone.export(str(tmp_path / "file"))


# ---------------------------------------------------------------- torchvision


@pytest.mark.parametrize(
    ("channels", "size", "model", "features"),
    [
        (3, 32, "resnet18", 512),
        (1, 32, "squeezenet1_1", 512),
        (4, 32, "shufflenet_v2_x0_5", 1024),
        (3, 64, "googlenet", 1024),
        (1, 32, "mobilenet_v3_small", 1024),
    ],
)
def test_torchvision_models_lose_their_classifier(channels, size, model, features):
    backbone = Torchvision(channels, size, model)
    h = backbone(images(channels, size))
    assert backbone.features == features
    assert h.shape == (4, features)
    assert not any(isinstance(module, nn.Dropout) for module in backbone.modules())
    if model != "squeezenet1_1":
        assert not any(getattr(module, "out_features", None) == 1000 for module in backbone.modules())


def test_torchvision_transformer_takes_the_images_size():
    options = {"num_classes": 10}
    backbone = Torchvision(1, 32, "vit_b_16", options)
    assert backbone(images(1)).shape == (4, 768)


def test_torchvision_first_convolution_keeps_its_scale():
    torch.manual_seed(0)
    want = Torchvision(3, 32).net.conv1.weight.std()
    conv = Torchvision(1, 32).net.conv1
    assert conv.weight.shape == (64, 1, 7, 7)
    assert (conv.stride, conv.padding, conv.bias) == ((2, 2), (3, 3), None)
    torch.testing.assert_close(conv.weight.std(), want, rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("model", "size", "options", "message"),
    [
        ("resnet81", 32, {}, "Did you mean 'resnet18'"),
        ("fcn_resnet50", 32, {}, "no classification model"),
        ("resnet18", 32, {"widht": 2}, "widht"),
        ("resnet18", 32, {"pretrained": True}, "not loaded by name; set the backbone's 'weights'"),
        ("alexnet", 16, {}, "cannot take images of 3 x 16 x 16"),
        ("vit_b_16", 30, {}, "cannot build vit_b_16 for images of 30"),
    ],
)
def test_torchvision_refusals(model, size, options, message):
    with pytest.raises(UsageError, match=message):
        Torchvision(3, size, model, options)


def test_torchvision_has_no_timm_export(tmp_path):
    with pytest.raises(UsageError, match="no timm export"):
        Torchvision(3, 32).export(str(tmp_path))


@pytest.mark.slow
def test_importing_the_packages_imports_neither_timm_nor_torch():
    code = (
        "import sys, contrastive.backbones; import contrastive.optimizers.rates as r;"
        "r.ScaledRate(per_256=1).at(256);"
        "assert 'torch' not in sys.modules, 'torch';"
        "import contrastive.backbones.timm, contrastive.backbones.torchvision;"
        "assert not {'timm', 'torchvision'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
