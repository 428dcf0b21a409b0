"""Any torchvision classification model as a backbone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from contrastive.backbones.probe import feature_width
from contrastive.errors import UsageError, did_you_mean
from contrastive.kinds import ImageSize, InChannels
from contrastive.parts import Backbone

#: torchvision module -> the argument that sets the image size of its models.
_SIZE_ARGUMENT = {"vision_transformer": "image_size", "maxvit": "input_size"}
#: Modules whose models return the outputs of auxiliary classifiers too, a tuple, in training.
_AUXILIARY = ("googlenet", "inception")


class Torchvision(Backbone):
    """Any torchvision classification model by name, without its classifier.

    The last linear (in SqueezeNet, convolutional) layer is removed, with the dropout just before it. If
    there are not three channels, the first convolution is replaced; its new weights are normal with the
    standard deviation of the old ones.

    Args:
        model: name of a torchvision classification model; never downloads weights.
        options: more arguments of that model.

    Raises UsageError for an unknown model or option, or an unsupported image size.
    """

    def __init__(
        self,
        in_channels: InChannels,
        image_size: ImageSize,
        model: str = "resnet18",
        options: dict[str, Any] = {},  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__()
        self.net = _create(model, image_size, options)
        _remove_classifier(self.net)
        if in_channels != 3:
            _replace_first_convolution(self.net, in_channels)
        self.features = feature_width(self.net, model, in_channels, image_size)

    def forward(self, x: Tensor) -> Tensor:
        """float [b, C, h, w] in [0, 1] -> features [b, F]."""
        return self.net(x)


def _create(model: str, image_size: int, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    if model not in names:
        remedy = did_you_mean(model, names) or " See torchvision.models.list_models()."
        raise UsageError(f"torchvision has no classification model '{model}'.{remedy}")
    if "pretrained" in options or "weights" in options:
        raise UsageError(
            "backbone options: torchvision's pretrained weights are not supported; use the timm backbone."
        )
    family = models.get_model_builder(model).__module__.rpartition(".")[2]
    arguments: dict[str, Any] = {}
    if family in _SIZE_ARGUMENT:
        size = image_size if family == "vision_transformer" else (image_size, image_size)
        arguments[_SIZE_ARGUMENT[family]] = size
    if family in _AUXILIARY:
        arguments |= {"aux_logits": False, "init_weights": True}
    try:
        return models.get_model(model, weights=None, **(arguments | options))
    except Exception as error:  # a wrong option fails in the model's own code: KeyError, AttributeError, ...
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(
            f"torchvision cannot build {model} for images of {image_size} with {options}: {reason}"
        ) from error


def _remove_classifier(net: nn.Module) -> None:
    name = [name for name, module in net.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    parent = net.get_submodule(name.rpartition(".")[0])
    siblings = list(parent.named_children())
    index = [child for child, _ in siblings].index(name.rpartition(".")[2])
    setattr(parent, siblings[index][0], nn.Identity())
    if index and isinstance(siblings[index - 1][1], nn.Dropout):
        setattr(parent, siblings[index - 1][0], nn.Identity())


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
