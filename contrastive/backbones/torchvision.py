"""Any torchvision classification model as a backbone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, cast

from torch import Tensor, nn

from contrastive.backbones.options import refuse_unused
from contrastive.backbones.probe import feature_width
from contrastive.backbones.tokens import Replace, check_hiding
from contrastive.backbones.torchvision_tokens import (
    is_transformer,
    last_map,
    token_hooks,
    tokens_of_map,
    tokens_of_sequence,
    ways_to_hide,
)
from contrastive.backbones.weights import State, WeightsFile, load_weights
from contrastive.errors import UsageError, did_you_mean
from contrastive.kinds import Addition, ImageSize, InChannels
from contrastive.parts import Backbone, Hiding
from contrastive.views import Tokens, View

#: torchvision module -> the argument that sets the image size of its models.
_SIZE_ARGUMENT = {"vision_transformer": "image_size", "maxvit": "input_size"}
#: Modules whose models return the outputs of auxiliary classifiers too, a tuple, in training.
_AUXILIARY = ("googlenet", "inception")
#: The position embeddings of torchvision's vision transformers, one for the class token first.
_POSITIONS = "encoder.pos_embedding"


class Torchvision(Backbone):
    """Any torchvision classification model by name, without its classifier.

    The last linear (in SqueezeNet, convolutional) layer is removed, with the dropout just before it. If
    there are not three channels, the first convolution is replaced; its new weights are normal with the
    standard deviation of the old ones.

    Args:
        model: name of a torchvision classification model; never downloads weights.
        options: more arguments of that model.
        weights: initial weights: a .safetensors, .pt, .pth, .ckpt, .tar or .bin file, or a folder with
            model.safetensors. ``{path: FILE, prefix: encoder_q}`` chooses if it holds several networks.

    Raises UsageError for an unknown model, an unknown or unused option, an unsupported image size, or weights
    that do not match.
    """

    def __init__(
        self,
        in_channels: InChannels,
        image_size: ImageSize,
        model: str = "resnet18",
        options: dict[str, Any] = {},  # noqa: B006 - read, never changed
        weights: Annotated[Path | WeightsFile | None, Addition()] = None,
    ) -> None:
        super().__init__()
        self.net = _create(model, image_size, options)
        classifier = _remove_classifier(self.net)
        if in_channels != 3:
            _replace_first_convolution(self.net, in_channels)
        self.name, self.classifier = model, classifier
        self.replace: Replace | None = None
        self.features = feature_width(self.net, model, in_channels, image_size)
        if weights is not None:
            self.notes = load_weights(self.net, weights, (classifier,), _convert)

    def forward(self, x: Tensor) -> Tensor:
        """float [b, C, h, w] in [0, 1] -> features [b, F]."""
        return self.net(x)

    @property
    def hides(self) -> frozenset[Hiding]:  # type: ignore[override] # depends on the network
        """``drop`` and ``replace`` for vision transformers; other networks mix patches from the start."""
        return ways_to_hide(self.net)

    @property
    def has_class_token(self) -> bool:  # type: ignore[override] # a plain attribute of the base class
        """Whether the network is a vision transformer."""
        return is_transformer(self.net)

    def allow_replacing(self) -> None:
        """Make the token that stands for hidden patches."""
        if self.replace is None:
            self.replace = Replace(cast(int, self.net.hidden_dim))

    def tokens(self, view: View, keep: Tensor | None = None, hidden: Tensor | None = None) -> Tokens:
        """The sequence that a vision transformer gives, or the last map of another network."""
        check_hiding(self, self.name, keep, hidden)
        source, is_input = last_map(self.net, self.classifier)
        with token_hooks(self.net, source, is_input, self.replace, keep, hidden) as outputs:
            h = self.net(view.data)
        if len(outputs) != 1:
            raise UsageError(
                f"{self.name} gives no last map; at level patch use another torchvision or timm model."
            )
        if outputs[0].ndim == 3:
            patch = cast(int, self.net.patch_size)
            rows, columns = (side // patch for side in view.data.shape[2:])
            return tokens_of_sequence(h, outputs[0], keep, (rows, columns))
        return tokens_of_map(h, outputs[0])


def _create(model: str, image_size: int, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    name, _, tag = model.rpartition(":")[2].rpartition("/")[2].partition(".")
    marks = (":", "/", "_Weights")
    if model not in names and (any(mark in model for mark in marks) or (tag and name in names)):
        raise UsageError(
            f"'{model}' names pretrained weights, which are not loaded by name. Set model to a plain name of "
            "torchvision's, such as resnet18, and weights to a local file."
        )
    if model not in names:
        remedy = did_you_mean(model, names) or " See torchvision.models.list_models()."
        raise UsageError(f"torchvision has no classification model '{model}'.{remedy}")
    if "pretrained" in options or "weights" in options:
        raise UsageError(
            "backbone options: torchvision's pretrained weights are not loaded by name; set the backbone's "
            "'weights' to a local file."
        )
    family = models.get_model_builder(model).__module__.rpartition(".")[2]
    arguments: dict[str, Any] = {}
    if family in _SIZE_ARGUMENT:
        size = image_size if family == "vision_transformer" else (image_size, image_size)
        arguments[_SIZE_ARGUMENT[family]] = size
    if family in _AUXILIARY:
        arguments |= {"aux_logits": False, "init_weights": True}
    try:
        net = models.get_model(model, weights=None, **(arguments | options))
    except Exception as error:  # a wrong option fails in the model's own code: KeyError, AttributeError, ...
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"torchvision cannot build {model} for images of {image_size} with {options}: {reason}"
        ) from error
    refuse_unused(
        net,
        model,
        options,
        lambda others: models.get_model(model, weights=None, **(arguments | others)),
    )
    return net


def _convert(state: State, net: nn.Module) -> State:
    """Position embeddings of another grid resampled as timm does it."""
    from timm.layers import resample_abs_pos_embed

    own = net.state_dict().get(_POSITIONS)
    if own is None or _POSITIONS not in state:
        return state
    side = math.isqrt(own.shape[1] - 1)
    return {**state, _POSITIONS: resample_abs_pos_embed(state[_POSITIONS], [side, side])}


def _remove_classifier(net: nn.Module) -> str:
    """Remove the last layer; returns its name."""
    name = [name for name, module in net.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    parent = net.get_submodule(name.rpartition(".")[0])
    siblings = list(parent.named_children())
    index = [child for child, _ in siblings].index(name.rpartition(".")[2])
    setattr(parent, siblings[index][0], nn.Identity())
    if index and isinstance(siblings[index - 1][1], nn.Dropout):
        setattr(parent, siblings[index - 1][0], nn.Identity())
    return name


def _replace_first_convolution(net: nn.Module, in_channels: int) -> None:
    name, old = next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.normal_(new.weight, std=old.weight.std().item())
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    parent = net.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], new)
