"""Pretrained weights by name: those that timm lists under a model and a tag, or those of a hub's repository.

timm downloads them through huggingface_hub and keeps them in its cache (``HF_HOME``); with
``HF_HUB_OFFLINE=1`` only the cache is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.error import URLError

from contrastive.errors import UsageError, did_you_mean

#: How the name of a hub's repository begins, as timm reads it.
HUB = ("hf_hub:", "hf-hub:")


class DownloadError(UsageError):
    """Weights are neither in the cache nor can be downloaded."""


@dataclass(frozen=True)
class Pretrained:
    """Weights that timm loads by name.

    Attributes:
        address: what ``timm.create_model`` takes.
        architecture: the timm model.
        record: timm's record of the checkpoint (``pretrained_cfg``).
        arguments: of the model, as a repository declares them.
    """

    address: str
    architecture: str
    record: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """Of the architecture's several weights; empty for a repository."""
        return "" if is_hub_name(self.address) else self.address.partition(".")[2]

    @property
    def licence(self) -> str:
        """As the record names it."""
        return self.record.get("license") or "unknown"


def is_architecture(name: str) -> bool:
    """Whether timm has a model of this name."""
    import timm

    return name in timm.list_models()


def is_hub_name(model: str) -> bool:
    """Whether a name is that of a hub's repository: ``hf_hub:timm/resnet18.a1_in1k``."""
    return model.lower().startswith(HUB)


def pretrained_weights(model: str, pretrained: bool | str) -> Pretrained:
    """The weights of a model.

    Args:
        model: a timm architecture, or the name of a hub's repository, whose config.json is read.
        pretrained: true: those that timm prefers; or a tag.

    Raises:
        UsageError: timm lists none, none under this tag, or the repository cannot be read.
    """
    import timm
    from timm.models import list_pretrained, load_model_config_from_hf

    if is_hub_name(model):
        if pretrained is not True:
            raise UsageError(f"'{model}' is a repository, which has no tags; set pretrained: true.")
        with explaining_downloads(model):
            record, architecture, arguments = load_model_config_from_hf(model.partition(":")[2])
        return Pretrained(model, architecture, record, arguments or {})
    tags = [each.partition(".")[2] for each in list_pretrained(f"{model}.*")]
    if not tags:
        raise UsageError(f"timm has no pretrained weights of {model}; set weights to a file.")
    if isinstance(pretrained, str) and pretrained not in tags:
        raise UsageError(
            f"timm has no pretrained weights '{pretrained}' of {model}; it has {', '.join(tags)}."
            f"{did_you_mean(pretrained, tags)}"
        )
    record = timm.get_pretrained_cfg(f"{model}.{pretrained}" if isinstance(pretrained, str) else model)
    assert record is not None
    return Pretrained(f"{model}.{record.tag}", model, record.to_dict())


def record_of(model: str) -> dict[str, Any]:
    """timm's record of the weights that it prefers for an architecture; empty if there are none."""
    import timm

    import contrastive.timm_models  # noqa: F401 - registers the small-stem architectures

    cfg = timm.get_pretrained_cfg(model)
    return {} if cfg is None else cfg.to_dict()


def per_channel(values: Sequence[float], channels: int) -> list[float]:
    """A mean or standard deviation of inputs for another number of channels: then the mean over its own."""
    own = [float(value) for value in values]
    return own if len(own) == channels else [sum(own) / len(own)] * channels


@contextmanager
def explaining_downloads(address: str) -> Iterator[None]:
    """Report in one line that weights are neither in the cache nor can be downloaded."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise DownloadError(
            f"{address}: its authors give the weights to those who accept their terms. Accept them on the "
            "page of the hub and set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(f"{address}: the hub has no such repository, or it is private.") from error
    except (
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        HfHubHTTPError,
        URLError,
        ConnectionError,
    ) as error:
        raise DownloadError(
            f"{address}: the weights are not in the cache and cannot be downloaded. Connect to a network and "
            "unset HF_HUB_OFFLINE, or copy the cache of a machine that has them (HF_HOME)."
        ) from error
