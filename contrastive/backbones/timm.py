"""Any timm model as a backbone, with a small-image stem for ResNets, local weights and timm export."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from contrastive.backbones.declaration import (
    LICENCE,
    declare_omissions,
    declare_transform,
    declared_network,
)
from contrastive.backbones.options import refuse_unused
from contrastive.backbones.pretrained import (
    DownloadError,
    Pretrained,
    explaining_downloads,
    is_hub_name,
    per_channel,
    pretrained_weights,
    record_of,
)
from contrastive.backbones.probe import OTHER_SIZE, feature_width
from contrastive.backbones.tokens import (
    Replace,
    check_hiding,
    keep_module,
    norms_after_pooling,
    split_tokens,
    ways_to_hide,
)
from contrastive.backbones.weights import State, WeightsFile, load_weights
from contrastive.errors import SizeError, UsageError, did_you_mean
from contrastive.kinds import Addition, ImageSize, InChannels
from contrastive.parts import Backbone, EvaluationTransform, Hiding
from contrastive.views import Tokens, View

_README = """# {architecture}

An image encoder, written by contrastive:
images [b, {channels}, {size}, {size}] -> features [b, {features}].
Inputs are in [0, 1], less `mean` {mean},
divided by `std` {std} (both in `config.json`).

```python
import timm
{registration}
encoder = timm.create_model("local-dir:PATH/TO/THIS/FOLDER", pretrained=True).eval()
```
{tokens}{note}{licence}"""
_TOKENS = """
Tokens: `{call}` gives [b, {prefix} + N, {width}]: {prefix} tokens of the whole image, then the N patches,
row by row.
"""
_NOTE = """
The one import is needed because timm itself has no `{architecture}`: `contrastive.timm_models` registers it
(`pip install contrastive-framework`). `contrastive.load_backbone("PATH/TO/THIS/FOLDER")` does both.
"""


class Timm(Backbone):
    """Any timm model by name, without its classifier; ResNets with a stem for small images.

    Args:
        model: name of a timm architecture (``timm.list_models()``), or with ``pretrained: true`` of a
            repository, such as ``hf_hub:timm/resnet18.a1_in1k``.
        stem: ``standard``: as timm builds it; ``small``: a 3x3 stem without max-pooling (SimCLR,
            Appendix B.9), for resnet10, 18, 34, 50, 101 and 152.
        weights: initial weights: an exported backbone folder, or a .safetensors, .pt, .pth, .ckpt, .tar or
            .bin file. ``{path: FILE, prefix: encoder_q}`` chooses if it holds several networks.
        pretrained: true: the weights that timm prefers for this model, from its cache or a download; a tag:
            those of this tag, such as ``lvd142m``.
        mean: subtracted from inputs in [0, 1]: one value per channel, or one for all (SimCLR: none); null:
            that of the pretrained weights, or nothing.
        std: divisor of inputs, likewise.
        options: more arguments of the timm model, e.g. ``{width: 0.5, stem_stride: 2}`` for small
            stems, ``{patch_size: 4}`` for vision transformers.

    Raises UsageError for an unknown model, a model named with its tag, an unknown or unused option, an
    unsupported image size, or weights that do not match or are not there.
    """

    mean: Tensor | None  # [C, 1, 1]
    std: Tensor | None  # [C, 1, 1]

    def __init__(
        self,
        in_channels: InChannels,
        image_size: ImageSize,
        model: str = "resnet18",
        stem: Literal["standard", "small"] = "standard",
        weights: Path | WeightsFile | None = None,
        mean: list[float] | None = None,
        std: list[Annotated[float, Field(gt=0)]] | None = None,
        options: dict[str, Any] = {},  # noqa: B006 - read, never changed
        pretrained: Annotated[bool | str, Addition()] = False,
    ) -> None:
        super().__init__()
        self.pretrained = _pretrained(model, stem, weights, pretrained)
        self.name = name = self.pretrained.architecture if self.pretrained else _architecture(model, stem)
        self.replace: Replace | None = None
        self.in_channels, self.image_size = in_channels, image_size
        record = self.pretrained.record if self.pretrained else record_of(name)
        self.arguments = _arguments(record, in_channels, image_size, options)
        self.net = _create(name, self.arguments, options, self.pretrained)
        _check_patches(self.net, name, image_size)
        remedy = _size_remedy(self.net, options)
        self.features = feature_width(self.net, name, in_channels, image_size, remedy)
        if weights is not None:
            classifiers, stems = (_module_names(self.net, key) for key in ("classifier", "first_conv"))
            self.notes = load_weights(self.net, weights, classifiers, _convert, stems)
        self.licence = self.pretrained.licence if self.pretrained else _licence_of(weights)
        if self.pretrained:
            self.notes = (f"weights: {self.pretrained.address}",)
            mean = mean or per_channel(self.pretrained.record["mean"], in_channels)
            std = std or per_channel(self.pretrained.record["std"], in_channels)
        if self.licence:
            self.notes = (*self.notes, f"licence of the weights: {self.licence}")
        for key, values in (("mean", mean), ("std", std)):
            buffer = None if values is None else torch.tensor(_per_channel(key, values, in_channels))
            self.register_buffer(key, None if buffer is None else buffer[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """float [b, C, h, w] in [0, 1] -> features [b, F]."""
        return self.net(self._standardise(x))

    def _standardise(self, x: Tensor) -> Tensor:
        if self.mean is not None:
            x = x - self.mean
        return x if self.std is None else x / self.std

    @property
    def hides(self) -> frozenset[Hiding]:  # type: ignore[override] # depends on the network
        """``drop`` and ``replace``, as far as the network lets patches be hidden."""
        return ways_to_hide(self.net)

    @property
    def has_class_token(self) -> bool:  # type: ignore[override] # a plain attribute of the base class
        """Whether the network has one."""
        return isinstance(getattr(self.net, "cls_token", None), Tensor)

    def allow_replacing(self) -> None:
        """Make the token that stands for hidden patches."""
        if self.replace is None:
            embed = self.net.get_submodule("patch_embed")
            self.replace = Replace(cast(int, self.net.embed_dim))
            embed.register_forward_hook(self.replace.hook)

    def tokens(self, view: View, keep: Tensor | None = None, hidden: Tensor | None = None) -> Tokens:
        """What ``forward_features`` gives."""
        check_hiding(self, self.name, keep, hidden)
        net = cast(Any, self.net)
        x = self._standardise(view.data)
        slots: list[tuple[nn.Module | None, str, Tensor]] = []
        if keep is not None:
            slots.append((keep_module(self.net), "positions", keep))
        if hidden is not None:
            slots.append((self.replace, "hidden", hidden))
        for module, name, value in slots:
            setattr(module, name, value)
        try:
            features = net.forward_features(x)
        finally:
            for module, name, _ in slots:
                setattr(module, name, None)
        return split_tokens(self.net, self.name, features, keep, x.shape[2:])

    def block_outputs(self, view: View, count: int) -> list[Tensor]:
        """What ``forward_intermediates`` gives."""
        net = cast(Any, self.net)
        blocks = getattr(net, "blocks", None)
        if blocks is None or not hasattr(net, "forward_intermediates"):
            return super().block_outputs(view, count)
        if count > len(blocks):
            raise UsageError(f"{self.name} has {len(blocks)} blocks, fewer than the {count} to average.")
        return list(
            net.forward_intermediates(
                self._standardise(view.data), indices=count, output_fmt="NLC", intermediates_only=True
            )
        )

    def export(self, folder: str) -> None:
        """Write config.json, model.safetensors and README.md, from which timm loads this encoder.

        Class token, registers and positions are the network's; what only training needs is left out, and
        named.
        Standard stems load with timm alone; small stems after ``import contrastive.timm_models``. timm's
        transform for it resizes whole images to the encoder's input; a run declares that of its evaluation.
        """
        from timm.models import save_for_hf

        net = copy.deepcopy(self.net).cpu()
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.data = tensor.data.contiguous()  # safetensors refuses channels_last
        cfg = self._pretrained_cfg()
        net.pretrained_cfg = cfg  # type: ignore[assignment] # a plain attribute, as timm sets it
        try:
            save_for_hf(net, folder, model_args=self.arguments, safe_serialization=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"{folder} is not a folder; name a new or an existing folder.") from error
        Path(folder, "README.md").write_text(self._readme(cfg), encoding="utf-8")
        declare_omissions(Path(folder), self._training_only)
        declare_transform(Path(folder), self._transform)

    @property
    def _training_only(self) -> list[str]:
        """Names of the parameters that are not the network's: the token that stands for hidden patches."""
        return [name for name, _ in self.named_parameters() if not name.startswith("net.")]

    @property
    def _transform(self) -> EvaluationTransform:
        return EvaluationTransform(self.image_size)

    def _pretrained_cfg(self) -> dict[str, Any]:
        """timm's record of a checkpoint: of this one, not of the weights that timm offers under its name."""
        record_keys = ("architecture", "first_conv", "classifier", "fixed_input_size")
        return {
            **{key: _record(self.net).get(key) for key in record_keys},
            "input_size": (self.in_channels, self.image_size, self.image_size),
            "pool_size": None,
            **self._transform.timm_config(),
            "mean": self._values(self.mean, 0.0),
            "std": self._values(self.std, 1.0),
            "num_classes": 0,
            **({"license": self.licence} if self.licence else {}),
        }

    def _values(self, buffer: Tensor | None, default: float) -> tuple[float, ...]:
        return (default,) * self.in_channels if buffer is None else tuple(buffer.flatten().tolist())

    def _readme(self, cfg: dict[str, Any]) -> str:
        needs_import = type(self.net).__module__ == "contrastive.timm_models"
        return _README.format(
            architecture=cfg["architecture"],
            channels=self.in_channels,
            size=self.image_size,
            features=self.features,
            mean=[float(f"{value:.6g}") for value in cfg["mean"]],
            std=[float(f"{value:.6g}") for value in cfg["std"]],
            registration="import contrastive.timm_models\n" if needs_import else "",
            tokens=self._token_note(),
            note=_NOTE.format(architecture=cfg["architecture"]) if needs_import else "",
            licence=f"\n{LICENCE.format(licence=self.licence)}\n" if self.licence else "",
        )

    def _token_note(self) -> str:
        """How timm gives the tokens of this encoder; empty if it has none before a map."""
        prefix = getattr(self.net, "num_prefix_tokens", None)
        if prefix is None:
            return ""
        call = "encoder.forward_features(images)"
        if norms_after_pooling(self.net):
            call = f"encoder.fc_norm({call})"
        return _TOKENS.format(call=call, prefix=prefix, width=self.net.num_features)


def _pretrained(
    model: str, stem: str, weights: Path | WeightsFile | None, pretrained: bool | str
) -> Pretrained | None:
    """The weights that a model starts from by name; None if by file or from scratch.

    Raises UsageError if there are none, or ``weights`` or a small stem are set, too.
    """
    if not pretrained:
        if is_hub_name(model):
            raise UsageError(f"'{model}' is a repository of pretrained weights; set pretrained: true.")
        return None
    if weights is not None:
        raise UsageError("weights and pretrained are both set; remove one.")
    if stem != "standard":
        raise UsageError(f"no pretrained weights have the stem '{stem}'; set stem: standard.")
    return pretrained_weights(model if is_hub_name(model) else _architecture(model, stem), pretrained)


def _licence_of(weights: Path | WeightsFile | None) -> str | None:
    """The licence that a folder of weights declares."""
    path = weights.path if isinstance(weights, WeightsFile) else weights
    declaration = None if path is None else declared_network(path)
    return None if declaration is None else declaration.licence


def _architecture(model: str, stem: str) -> str:
    """The timm architecture of a model and a stem; raises UsageError if there is none."""
    import timm

    import contrastive.timm_models  # noqa: F401 - registers the small-stem architectures

    architectures = timm.list_models()
    small = timm.list_models("*_small", module="timm_models")
    name = model if stem == "standard" or model in small else f"{model}_small"
    if name in architectures:
        return name
    if model in architectures:
        depths = sorted(int(name.removeprefix("resnet").removesuffix("_small")) for name in small)
        raise UsageError(
            f"{model} has no small stem; ResNets of depth {', '.join(map(str, depths))} have one."
        )
    _refuse_pretrained(model, architectures)
    remedy = did_you_mean(model, architectures) or " See timm.list_models()."
    raise UsageError(f"timm has no model '{model}'.{remedy}")


def _refuse_pretrained(model: str, architectures: Sequence[str]) -> None:
    """Raise UsageError if a name stands for pretrained weights: a tag, or an address of weights."""
    from timm.models import get_deprecated_models, list_pretrained

    source, colon, address = model.partition(":")
    name, _, tag = (address or source).rstrip("/").rpartition("/")[2].partition(".")
    if source.lower() == "local-dir":
        raise UsageError(
            f"'{model}' is a folder of weights, not a model. Set weights: {address or 'FOLDER'}, and model to"
            " the architecture that its config.json names; without weights it starts from scratch."
        )
    if colon or "/" in model:
        plain = f"model: {name}" if name in architectures else "model to a plain name"
        raise UsageError(
            f"'{model}' is an address of pretrained weights. Set model: hf_hub:OWNER/NAME and pretrained: "
            f"true, or {plain} and weights: FILE; without them it starts from scratch."
        )
    if tag and name in architectures:
        tags = [each.partition(".")[2] for each in list_pretrained(f"{name}.*")]
        listing = "" if tag in tags else f" (timm lists {', '.join(tags) or 'none'})"
        raise UsageError(
            f"'{model}' is {name} with the pretrained weights of the tag '{tag}'{listing}."
            f" Set model: {name} and pretrained: {tag}; without pretrained it starts from scratch."
        )
    if current := get_deprecated_models().get(model):
        plain, _, tag = current.partition(".")
        raise UsageError(
            f"'{model}' is timm's old name of '{current}'; set model: {plain}"
            + (f", and pretrained: {tag} if you want its weights." if tag else ".")
        )


def _arguments(
    record: Mapping[str, Any], in_channels: int, image_size: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of the model; ``img_size`` only if it has a fixed size that differs from ``image_size``.

    Args:
        record: timm's of the model's checkpoint.
    """
    arguments: dict[str, Any] = {"num_classes": 0, "in_chans": in_channels}
    clashes = sorted(arguments.keys() & options.keys())
    if clashes:
        raise UsageError(f"backbone options: '{clashes[0]}' follows from the data; remove it.")
    downloads = [key for key in options if key.startswith("pretrained") or key == "checkpoint_path"]
    if downloads:
        raise UsageError(
            f"backbone options: '{downloads[0]}' is not allowed; set 'pretrained' of the backbone, or "
            "'weights' to a local file."
        )
    if record.get("fixed_input_size") and tuple(record["input_size"][1:]) != (image_size, image_size):
        arguments["img_size"] = image_size
    return arguments | options


def _create(
    name: str, arguments: dict[str, Any], options: dict[str, Any], pretrained: Pretrained | None
) -> nn.Module:
    import timm

    try:
        if pretrained is None:
            net = timm.create_model(name, **arguments)
        else:
            with explaining_downloads(pretrained.address):
                net = timm.create_model(pretrained.address, pretrained=True, **arguments)
    except DownloadError:
        raise
    except Exception as error:  # a wrong option fails in the model's own code: KeyError, AttributeError, ...
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(f"timm cannot build {name} with {arguments}: {reason}") from error
    own = dict(pretrained.arguments) if pretrained else {}
    refuse_unused(net, name, options, lambda others: timm.create_model(name, **(own | arguments | others)))
    return net


def _record(net: nn.Module) -> dict[str, Any]:
    """timm's record of a model's checkpoint."""
    return cast(dict[str, Any], net.pretrained_cfg)


def _module_names(net: nn.Module, key: str) -> tuple[str, ...]:
    """The modules that timm's record lists under ``classifier`` or ``first_conv``: none, one or several."""
    names = _record(net).get(key) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _convert(state: State, net: nn.Module) -> State:
    """Names and shapes as timm converts them for this model: it resamples position embeddings and tables."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    return state if convert is None else dict(convert(state, net))


def _check_patches(net: nn.Module, name: str, image_size: int) -> None:
    """Raise SizeError if patches do not cover the image: some timm models silently drop the rest."""
    from timm.layers import PatchEmbed

    for module in net.modules():
        if isinstance(module, PatchEmbed) and not module.dynamic_img_pad:
            patch = max(module.patch_size)
            if image_size % patch:
                raise SizeError(
                    f"{name} cuts images into patches of {patch} pixels, which do not cover {image_size};"
                    f" choose a size that is a multiple of {patch}, or set options: {{patch_size: ...}}."
                )


def _size_remedy(net: nn.Module, options: dict[str, Any]) -> str:
    """What helps if a model cannot take images of the size that follows from the views."""
    if "img_size" not in options:
        return OTHER_SIZE
    if "dynamic_img_size" in inspect.signature(type(net).__init__).parameters:
        return "Add dynamic_img_size: true to options, or remove img_size from them."
    return "Remove img_size from options: it follows from the views."


def _per_channel(key: str, values: list[float], channels: int) -> list[float]:
    if len(values) not in (1, channels):
        raise UsageError(
            f"backbone {key}: give one value or {channels} (one per channel), not {len(values)}."
        )
    return list(values) * (channels // len(values))
