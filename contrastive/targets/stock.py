"""A target that is a network from elsewhere, which stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from contrastive.backbones import Timm, WeightsFile, declared_network, read_weights
from contrastive.errors import UsageError
from contrastive.kinds import Addition, Content, ImageSize, InChannels
from contrastive.parts import Backbone, FrozenNetwork, Head, Level, Request, Target, by_view
from contrastive.text import quantity
from contrastive.views import Tokens, View


class Stock(Target):
    """A frozen encoder from a file or by name: the teacher of a distillation, or an anchor to old features.

    Keys of images are its features h, keys of patches its tokens. A view passes once for all objectives. The
    encoder is always in evaluation mode and is in no checkpoint; its file must be there while a run trains.
    The run's fingerprint holds the SHA-256 of the weights, so a run does not continue with other ones.

    It sees views at its own size: others are resized, bilinear and with antialiasing. At level patch its grid
    must be the student's, or a whole multiple of it, which is averaged.

    Args:
        weights: a folder that ``contrastive export`` or timm wrote, such as ``backbone`` of a run, or a file
            of weights. ``{path: FILE, prefix: encoder_q}`` chooses if it holds several networks.
        pretrained: in place of weights: true, or a tag, as of the backbone ``timm``.
        model: timm architecture of the weights; null: what the folder declares.
        options: more arguments of the timm model; null: what the folder declares for it.
        mean: subtracted from inputs in [0, 1]: one value per channel, or one for all; null: what the folder
            declares, or nothing.
        std: divisor of inputs, likewise.
        size: side in pixels of the images that it takes; null: what the folder declares, or the views' own.

    Raises UsageError for weights that are not there or do not match.
    """

    detached = True
    encodes = True
    fixed = True

    def __init__(
        self,
        in_channels: InChannels,
        image_size: ImageSize,
        weights: Annotated[Path | WeightsFile | None, Content()] = None,
        model: str | None = None,
        options: dict[str, Any] | None = None,
        mean: list[float] | None = None,
        std: list[Annotated[float, Field(gt=0)]] | None = None,
        size: Annotated[int, Field(gt=0)] | None = None,
        pretrained: Annotated[bool | str, Addition()] = False,
    ) -> None:
        super().__init__()
        if weights is None and not pretrained:
            raise UsageError("stock needs weights, a folder or a file, or pretrained and model.")
        path = weights.path if isinstance(weights, WeightsFile) else weights
        declaration = None if path is None else declared_network(path)
        if declaration is not None:
            if options is None and model in (None, declaration.architecture):
                options = declaration.options
            model = model or declaration.architecture
            mean, std = mean or declaration.mean, std or declaration.std
        if model is None and path is None:
            raise UsageError("stock: pretrained needs model, the timm architecture of the weights.")
        if model is None:
            assert path is not None
            read_weights(path)  # that there are none is the first thing to report
            raise UsageError(
                f"weights: {path} does not declare its network; set model to its timm architecture, "
                "or weights to a folder that contrastive export wrote."
            )
        own_size = size or (declaration.image_size if declaration is not None else None) or image_size
        options = dict(options or {})
        if size is not None and "img_size" in options:
            options["img_size"] = size
        backbone = Timm(
            in_channels,
            own_size,
            model,
            weights=weights,
            mean=mean,
            std=std,
            options=options,
            pretrained=pretrained,
        )
        self.size = own_size
        self.teacher = FrozenNetwork(backbone)
        self.features = backbone.features
        count = sum(parameter.numel() for parameter in backbone.parameters())
        self.notes = (
            f"{backbone.name} of {path or 'timm'}: {quantity(count, 'parameter')}, frozen and in no "
            f"checkpoint; it takes images of {own_size} x {own_size} pixels",
            *backbone.notes,
        )

    @classmethod
    def example(cls, folder: Path) -> dict[str, Any]:
        """An exported transformer of 4 x 4 patches, with features of width 8."""
        options = {"patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
        Timm(3, 32, "vit_tiny_patch16_224", options=options).export(str(folder))
        return {"weights": str(folder)}

    @property
    def backbone(self) -> Backbone:
        """The encoder."""
        return self.teacher.network

    def width(self, level: Level) -> int:
        """F, or G of patches."""
        if level == "image":
            return self.backbone.features
        parameter = next(self.backbone.parameters())
        black = parameter.new_zeros(1, self.teacher.network.in_channels, self.size, self.size)
        with torch.no_grad():
            return self.backbone.tokens(View(black)).patches.shape[2]

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Nothing to keep: it knows nothing of the student."""

    @torch.no_grad()
    def give(self, requests: Mapping[str, Request]) -> dict[str, dict[int, Tensor]]:
        """One pass per view for all objectives."""
        keys: dict[str, dict[int, Tensor]] = {name: {} for name in requests}
        for number, view, users in by_view(requests):
            own_view = replace(view, data=self._at_own_size(view.data))
            if all(request.level == "image" for request in users.values()):
                h = self.backbone(own_view.data)
                for name in users:
                    keys[name][number] = h
                continue
            tokens = self.backbone.tokens(own_view)
            for name, request in users.items():
                is_image = request.level == "image"
                keys[name][number] = tokens.h if is_image else self._patches(tokens, request)
        return keys

    @torch.no_grad()
    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        return {view: self.backbone(self._at_own_size(pixels)) for view, pixels in views.items()}

    def _at_own_size(self, pixels: Tensor) -> Tensor:
        """Pixels at the encoder's size: [b, C, h, w] -> [b, C, S, S]."""
        size = (self.size, self.size)
        if tuple(pixels.shape[2:]) == size:
            return pixels
        return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)

    def _patches(self, tokens: Tokens, request: Request) -> Tensor:
        """Tokens of the student's grid, each the mean of those that it covers: [b, N, G]."""
        grid = request.grid or tokens.grid
        if grid == tokens.grid:
            return tokens.patches
        (rows, columns), (own_rows, own_columns) = grid, tokens.grid
        if own_rows % rows or own_columns % columns:
            raise UsageError(
                f"stock sees {own_rows} x {own_columns} patches in images of {self.size} pixels, which "
                f"cannot be averaged to the student's {rows} x {columns}; set its size to "
                f"{rows * (self.size // own_rows)}, or to a multiple of that."
            )
        maps = tokens.patches.mT.unflatten(2, tokens.grid)  # [b, G, rows, columns]
        return F.avg_pool2d(maps, (own_rows // rows, own_columns // columns)).flatten(2).mT
