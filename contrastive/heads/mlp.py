"""Multi-layer perceptrons as heads and predictors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from contrastive.errors import UsageError
from contrastive.kinds import InFeatures
from contrastive.parts import Head

Width = Annotated[int, Field(gt=0)]


class MLP(Head):
    """Linear layers with ReLU between them, with or without batch norm.

    =============================================  ===================  ==========  ===========  =========
    head                                           dims                 batch_norm  last_affine  last_bias
    =============================================  ===================  ==========  ===========  =========
    SimCLR, official code, v1 (Chen et al. 2020a)  [2048, 128]          all         scale
    SimCLR v2 (Chen et al. 2020b)                  [2048, 2048, 128]    all         scale
    SimCLR as its paper states it, MoCo v2         [2048, 128]          none                     true
    MoCo v1: ``linear``, dim 128
    MoCo v3 (Chen et al. 2021), ResNet: projector  [4096, 256]          all         none
    MoCo v3, ResNet: predictor                     [4096, 256]          hidden                   false
    MoCo v3, ViT: projector                        [4096, 4096, 256]    all         none
    MoCo v3, ViT: predictor                        [4096, 256]          all         none
    BYOL: projector and predictor                  [4096, 256]          hidden                   false
    SimSiam: projector                             [2048, 2048, 2048]   all         none
    SimSiam: predictor                             [512, 2048]          hidden                   true
    SwAV: projector                                [2048, 128]          hidden                   true
    NNCLR: projector                               [2048, 2048, 256]    all         full
    NNCLR: predictor                               [4096, 256]          hidden                   true
    Barlow Twins, VICReg                           [8192, 8192, 8192]   hidden                   false
    =============================================  ===================  ==========  ===========  =========

    A layer followed by batch norm has no bias: the norm would cancel it, so the hidden biases of BYOL and
    NNCLR change nothing. Weights are initialised as by PyTorch's ``nn.Linear`` (SimSiam relies on that);
    the official SimCLR code draws them from N(0, 0.01^2), a scale that its batch norms cancel.

    Args:
        dims: widths of the layers; the last one is D.
        batch_norm: ``all``: after every layer; ``hidden``: after all but the last; ``none``.
        last_affine: what the last batch norm, if there is one, learns: ``scale`` without a shift (the
            official SimCLR code), ``none`` or ``full``.
        last_bias: whether the last layer has a bias, if no batch norm follows it.
    """

    def __init__(
        self,
        in_features: InFeatures,
        dims: Annotated[list[Width], Field(min_length=1)] = [512, 128],  # noqa: B006 - read, never changed
        batch_norm: Literal["none", "hidden", "all"] = "all",
        last_affine: Literal["scale", "none", "full"] = "scale",
        last_bias: bool = True,
    ) -> None:
        super().__init__()
        if not dims:
            raise UsageError("head mlp: dims is empty; give at least one width.")
        if last_affine != "scale" and batch_norm != "all":
            raise UsageError(
                f"head mlp: last_affine: {last_affine} needs a last batch norm; set batch_norm: all, "
                "or remove last_affine."
            )
        *hidden, self.out_features = dims
        layers: list[nn.Module] = []
        for width in hidden:
            has_norm = batch_norm != "none"
            layers.append(nn.Linear(in_features, width, bias=not has_norm))
            if has_norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.ReLU(inplace=True))
            in_features = width
        layers.append(nn.Linear(in_features, self.out_features, bias=last_bias and batch_norm != "all"))
        if batch_norm == "all":
            layers.append(_last_norm(self.out_features, last_affine))
        self.layers = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        """[b, F] -> [b, D]."""
        return self.layers(h)


def _last_norm(width: int, affine: Literal["scale", "none", "full"]) -> nn.BatchNorm1d:
    return ScaleBatchNorm(width) if affine == "scale" else nn.BatchNorm1d(width, affine=affine == "full")


class ScaleBatchNorm(nn.BatchNorm1d):
    """Batch norm with a scale and no shift: gamma without beta."""

    def __init__(self, num_features: int, **kwargs: Any) -> None:
        super().__init__(num_features, **kwargs)
        self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Reset running statistics and scale; there is no shift to reset."""
        self.reset_running_stats()
        nn.init.ones_(self.weight)
