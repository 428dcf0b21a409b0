"""The parts that ship with the framework, registered through the same hooks as those of plugins.

Only references are registered: a part's module is imported when a recipe, ``list`` or ``show`` first names
the part.
"""

from __future__ import annotations

from contrastive.hookspecs import Register
from contrastive.kinds import hookimpl


@hookimpl
def register_dataset(register: Register) -> None:
    register("fashion_mnist_sample", "contrastive.datasets:FashionMNISTSample")
    register("image_folder", "contrastive.datasets:ImageFolder")
    register("parquet", "contrastive.datasets:Parquet")
    register("torchvision", "contrastive.datasets:Torchvision")
    register("hugging_face", "contrastive.datasets:HuggingFace")
    register("subset", "contrastive.datasets:Subset")


@hookimpl
def register_augmentation(register: Register) -> None:
    register("simclr", "contrastive.augmentations:SimCLR")
    register("random_resized_crop", "contrastive.augmentations:RandomResizedCrop")
    register("shift", "contrastive.augmentations:Shift")
    register("flip", "contrastive.augmentations:Flip")
    register("color_jitter", "contrastive.augmentations:ColorJitter")
    register("grayscale", "contrastive.augmentations:Grayscale")
    register("blur", "contrastive.augmentations:Blur")
    register("solarize", "contrastive.augmentations:Solarize")
    register("cutout", "contrastive.augmentations:Cutout")
    register("rotation", "contrastive.augmentations:Rotation")
    register("noise", "contrastive.augmentations:Noise")
    register("sobel", "contrastive.augmentations:Sobel")
    register("torchvision", "contrastive.augmentations:TorchvisionTransform")
    register("sequence", "contrastive.augmentations:Sequence")
    register("views", "contrastive.augmentations:Views")
    register("crop_of", "contrastive.augmentations:CropOf")


@hookimpl
def register_backbone(register: Register) -> None:
    register("timm", "contrastive.backbones:Timm")
    register("torchvision", "contrastive.backbones:Torchvision")


@hookimpl
def register_head(register: Register) -> None:
    register("mlp", "contrastive.heads:MLP")
    register("linear", "contrastive.heads:Linear")
    register("none", "contrastive.heads:NoHead")


@hookimpl
def register_target(register: Register) -> None:
    register("shared", "contrastive.targets:SharedEncoder")
    register("stop_grad", "contrastive.targets:StopGrad")
    register("ema", "contrastive.targets:EMA")
    register("stock", "contrastive.targets:Stock")
    register("snapshot", "contrastive.targets:Snapshot")


@hookimpl
def register_negatives(register: Register) -> None:
    register("in_batch", "contrastive.negatives:InBatch")
    register("none", "contrastive.negatives:NoNegatives")


@hookimpl
def register_loss(register: Register) -> None:
    register("nt_xent", "contrastive.losses:NTXent")
    register("nt_logistic", "contrastive.losses:NTLogistic")
    register("margin", "contrastive.losses:Margin")


@hookimpl
def register_optimizer(register: Register) -> None:
    register("lars", "contrastive.optimizers:LARSPart")
    register("sgd", "contrastive.optimizers:SGDPart")
    register("adamw", "contrastive.optimizers:AdamWPart")


@hookimpl
def register_callback(register: Register) -> None:
    register("early_stopping", "contrastive.callbacks:EarlyStopping")


@hookimpl
def register_protocol(register: Register) -> None:
    register("knn", "contrastive.protocols:KNN")
    register("linear", "contrastive.protocols:LinearProbe")
    register("finetune", "contrastive.protocols:FineTune")
    register("retrieval", "contrastive.protocols:Retrieval")
