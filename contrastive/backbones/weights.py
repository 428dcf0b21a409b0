"""Initial weights from disk: read without running any code in the file, and matched by name.

A file may hold the network under a prefix (``state_dict``, ``module.encoder_q``, ``teacher.backbone``) and
others next to it. Prefixes are derived from the names of the network's own weights (:func:`load_weights`).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from torch import Tensor, nn

from contrastive.errors import UsageError, did_you_mean
from contrastive.paths import user_path
from contrastive.text import abbreviate

State = dict[str, Tensor]
#: Converts weights of other names or shapes to those of a network.
Converter = Callable[[State, nn.Module], State]

_PICKLES = (".pt", ".pth", ".ckpt", ".tar", ".bin")
_FORMATS = f"an exported folder, or a .safetensors, {', '.join(_PICKLES[:-1])} or {_PICKLES[-1]} file"
_REMEDY = "Set the model, stem, options, image size and input channels these weights were trained with."
_MOST_COMPLAINTS = 3
_BATCHES_SEEN = "num_batches_tracked"  # a count that batch norms had not in old files; torch takes it as 0


class WeightsFile(BaseModel):
    """A file of weights, and which of the networks in it to take.

    Attributes:
        path: the file, or a folder with model.safetensors.
        prefix: what the names of that network start with, such as ``module.encoder_q``.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    path: Path
    prefix: str | None = None


def read_weights(path: Path) -> State:
    """The tensors of a file by their dotted names, on the CPU: ``state_dict.module.conv1.weight``.

    Args:
        path: a folder with model.safetensors (what ``export`` and timm write), a .safetensors file, or a file
            that ``torch.save`` wrote, which is read with ``weights_only=True``.

    Raises UsageError if there is no such file, it cannot be read as plain tensors, or it holds none.
    """
    path = user_path(path)
    is_folder = os.path.isdir(path)
    file = path / "model.safetensors" if is_folder else path
    suffix = file.suffix.lower()
    is_known = suffix in (".safetensors", *_PICKLES)
    if not os.path.isfile(file):
        where = f"{path} has no model.safetensors" if is_folder else f"{path} does not exist"
        names = "" if is_known else ", and pretrained weights are not loaded by name or tag"
        raise UsageError(f"weights: {where}{names}. Give {_FORMATS}.")
    if not is_known:
        raise UsageError(f"weights: {file} is neither a folder nor a file that can be read. Give {_FORMATS}.")
    try:
        content = (
            load_file(file)
            if suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch's unpickler may raise almost any type
        reason = _reason(file, error)
        raise UsageError(f"weights: {file} cannot be read as plain tensors: {reason}") from error
    state = _flat(content)
    if not state:
        raise UsageError(f"weights: {file} does not hold a state dict (names with tensors).")
    return state


def _reason(file: Path, error: Exception) -> str:
    """Why torch or safetensors cannot read a file."""
    try:
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # it is no pickle that torch wrote
        classes = []
    if classes:
        return (
            f"it needs {abbreviate(sorted(classes))}, and loading such objects may run code. If you trust the"
            " file, load it with torch and save only its state dict."
        )
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _flat(content: Any, path: str = "") -> State:
    """The tensors in nested maps with text as keys, by dotted names."""
    if isinstance(content, Tensor):
        return {path: content} if path else {}
    if not isinstance(content, Mapping):
        return {}
    state: State = {}
    for key, value in content.items():
        if isinstance(key, str):
            state |= _flat(value, f"{path}.{key}" if path else key)
    return state


def _is_plain(value: Tensor) -> bool:
    """Whether the tensor holds its numbers one by one: sparse, quantised and meta tensors do not."""
    return value.layout is torch.strided and not value.is_quantized and not value.is_meta


@dataclass(frozen=True)
class _Fit:
    """The weights under a prefix as those of a network.

    Attributes:
        prefix: empty, or up to and including a dot.
        state: names and values as the network has them.
        notes: what was converted or left out.
        complaint: why they do not fit, as ``lacks conv1.weight``; empty if they do.
    """

    prefix: str
    state: State
    notes: Sequence[str]
    complaint: str


def load_weights(
    net: nn.Module,
    weights: Path | WeightsFile,
    ignore: tuple[str, ...] = (),
    convert: Converter | None = None,
    first_convolutions: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Load a file into ``net``: the weights under the one prefix under which all of the network's are found.

    Args:
        net: the network; unchanged if the weights do not fit.
        weights: the file, see :func:`read_weights`, and perhaps the prefix.
        ignore: modules whose weights are left out (the classifiers that ``net`` lacks).
        convert: tried if names or shapes differ, for example to resample position embeddings.
        first_convolutions: modules whose weights are adapted if they take three channels and ``net`` does
            not; by default the first convolution.

    Returns:
        What was not taken as it is in the file, in sentences.

    Raises:
        UsageError: no prefix fits or several do; the message names what does not fit, or the prefixes.
    """
    source = weights if isinstance(weights, WeightsFile) else WeightsFile(path=Path(weights))
    state, stems = read_weights(source.path), first_convolutions or _first_convolution(net)
    prefixes = _prefixes(net, state, source)
    fits = [_fit(net, _under(state, prefix), prefix, ignore, convert, stems) for prefix in prefixes]
    matches = [fit for fit in fits if not fit.complaint]
    if not matches:
        prefix = f" under '{fits[0].prefix.rstrip('.')}'" if fits[0].prefix else ""
        raise UsageError(f"weights: {source.path} does not fit the model:{prefix} it {fits[0].complaint}")
    if len(matches) > 1:
        names = sorted(fit.prefix.rstrip(".") for fit in matches)
        listing = ", ".join(repr(name) for name in names)
        raise UsageError(
            f"weights: {source.path} holds this model under {len(names)} prefixes: {listing}."
            f" Choose one: weights: {{path: {source.path}, prefix: '{names[-1]}'}}."
        )
    net.load_state_dict(matches[0].state)
    return tuple(f"weights: {source.path}: {note}" for note in matches[0].notes)


def _under(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _prefixes(net: nn.Module, state: State, source: WeightsFile) -> list[str]:
    """The prefixes to try: those under which at least half of the network's names are found, most first.

    Raises UsageError if the file has nothing under the prefix that the user names.
    """
    own = {name for name in net.state_dict() if not name.endswith(_BATCHES_SEEN)}
    counts: Counter[str] = Counter()
    for name in state:
        steps = name.split(".")
        for depth in range(len(steps)):
            if ".".join(steps[depth:]) in own:
                counts["".join(f"{step}." for step in steps[:depth])] += 1
    ranking = sorted(counts, key=lambda prefix: (-counts[prefix], len(prefix), prefix))
    likely = [prefix for prefix in ranking if 2 * counts[prefix] >= len(own)]
    if source.prefix is None:
        return likely or [""]
    choice = f"{source.prefix.rstrip('.')}." if source.prefix.strip(".") else ""
    if choice in likely:
        return [choice]
    if parts := [prefix for prefix in likely if f".{choice}" in f".{prefix}"]:  # a container may be left out
        return parts
    if _under(state, choice):
        return [choice]
    names = [prefix.rstrip(".") for prefix in likely]
    listing = f" This model is found under {', '.join(repr(name) for name in names)}." if names else ""
    remedy = did_you_mean(source.prefix, names) or listing
    raise UsageError(f"weights: {source.path} has no weights under '{source.prefix}'.{remedy}")


def _fit(
    net: nn.Module,
    under: State,
    prefix: str,
    ignore: tuple[str, ...],
    convert: Converter | None,
    stems: tuple[str, ...],
) -> _Fit:
    """The weights ``under`` a prefix as those of ``net``, converted if they must be and can be."""
    if unusual := [name for name, value in under.items() if not _is_plain(value)]:
        complaint = f"has {unusual[0]} as a sparse, quantised or empty tensor; weights must be dense."
        return _Fit(prefix, {}, (), complaint)
    notes = [f"took the weights under '{prefix.rstrip('.')}'"] if prefix else []
    state, others = _split(net, under, ignore)
    if mismatch(net, state):
        if complaint := _other_patches(net, state, stems) or _oblong_grid(net, state):
            return _Fit(prefix, {}, (), complaint)
        if convert is not None:
            state, others = _split(net, _conversion(convert, under, net), ignore)
        state = _with_channels_of(net, state, stems)
        notes += _changes(under, state)
    if complaint := mismatch(net, state):
        return _Fit(prefix, {}, (), f"{complaint}. {_REMEDY}")
    if others:
        notes.append(f"left out {abbreviate(others)}, which the model does not have")
    return _Fit(prefix, state, notes, "")


def _split(net: nn.Module, state: State, ignore: tuple[str, ...]) -> tuple[State, list[str]]:
    """What belongs to ``net``, and the modules next to it that do not: classifiers, and heads by other names.

    A name within a module that ``net`` has stays, because a deeper network is not this one.
    """
    own, children = net.state_dict(), {name for name, _ in net.named_children()}
    tops = {module.partition(".")[0] for module in ignore}
    heads = (*ignore, *(top for top in tops if not any(name.startswith(f"{top}.") for name in own)))
    matching: State = {}
    others: dict[str, None] = {}
    for name, value in state.items():
        module, dot, _ = name.partition(".")
        classifier = next((head for head in heads if name.startswith(f"{head}.")), None)
        if name in own or not (classifier or (dot and module not in children)):
            matching[name] = value
        else:
            others[classifier or module] = None
    for name, value in own.items():
        if name.endswith(_BATCHES_SEEN) and name not in matching:
            matching[name] = torch.zeros_like(value, device="cpu")
    return matching, list(others)


def _conversion(convert: Converter, state: State, net: nn.Module) -> State:
    """``state`` converted, or as it is if the converter cannot read it; a mismatch then names the reason."""
    try:
        return convert(dict(state), net)
    except Exception:  # converters trust the file: a wrong one may raise anything
        return state


def _first_convolution(net: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))[:1]


def _kernels(net: nn.Module, state: State, stems: tuple[str, ...]) -> Iterator[tuple[str, Tensor, nn.Conv2d]]:
    """The first convolutions of ``net`` that ``state`` has too, with their names and its weights."""
    modules = dict(net.named_modules())
    for stem in stems:
        module, weight = modules.get(stem), state.get(f"{stem}.weight")
        if isinstance(module, nn.Conv2d) and weight is not None and weight.ndim == 4:
            yield f"{stem}.weight", weight, module


def _other_patches(net: nn.Module, state: State, stems: tuple[str, ...]) -> str:
    """The complaint if the weights cut images into patches of another size; empty if not."""
    for name, weight, module in _kernels(net, state, stems):
        size, patch = tuple(weight.shape[2:]), tuple(module.kernel_size)
        if size != patch and module.stride == module.kernel_size:
            return (
                f"has patches of {size[0]} x {size[1]} pixels ({name}), the model of {patch[0]} x {patch[1]};"
                f" choose a model with patches of {size[0]}, or set options: {{patch_size: {size[0]}}}."
            )
    return ""


def _oblong_grid(net: nn.Module, state: State) -> str:
    """The complaint if the weights have a position for each patch of images that are not square."""
    prefix_tokens = int(getattr(net, "num_prefix_tokens", 0))
    for name, own in net.state_dict().items():
        value = state.get(name)
        if not name.endswith("pos_embed") or value is None or value.ndim != 3 or value.shape == own.shape:
            continue
        patches = value.shape[1] - prefix_tokens
        if not any(math.isqrt(count) ** 2 == count for count in (patches, value.shape[1])):
            return (
                f"has position embeddings of {patches} patches ({name}), which are no square grid, and timm "
                "resamples only square ones; take weights that were trained on square images."
            )
    return ""


def _with_channels_of(net: nn.Module, state: State, stems: tuple[str, ...]) -> State:
    """Three input channels adapted to those of ``net``, as timm does: summed for one, else repeated."""
    from timm.models import adapt_input_conv

    result = dict(state)
    for name, weight, module in _kernels(net, state, stems):
        channels = module.weight.shape[1]
        if weight.shape[1] == 3 != channels:
            result[name] = adapt_input_conv(channels, weight)
    return result


def _changes(before: State, after: State) -> list[str]:
    """What was converted, in words."""
    notes = []
    for name, value in after.items():
        old, new = list(before[name].shape) if name in before else None, list(value.shape)
        if old is None or old == new:
            continue
        if len(old) == len(new) == 4 and old[1] != new[1]:
            how = "summed" if new[1] == 1 else "repeated and scaled"
            notes.append(f"{name} {how} from {old[1]} to {new[1]} input channels, as timm does")
        else:
            how = "resampled" if len(old) == len(new) else "reshaped"
            notes.append(f"{name} {how} from {old} to {new}, as timm does")
    new_names = [name for name in after if name not in before and not name.endswith(_BATCHES_SEEN)]
    if new_names:
        notes.append(f"names changed to timm's: {abbreviate(new_names)}")
    return _summary(notes)


def _summary(notes: list[str]) -> list[str]:
    """The first notes, and how many there are: a network has a table of positions in every block."""
    more = len(notes) - _MOST_COMPLAINTS
    return notes if more <= 0 else [*notes[:_MOST_COMPLAINTS], f"and {more} more weights in the same way"]


def mismatch(net: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What in ``state`` does not fit ``net``: "lacks fc.bias; it has ..."; empty if everything fits."""
    own = net.state_dict()
    complaints = [
        *(f"lacks {name}" for name in own if name not in state),
        *(f"has {name}, which the model lacks" for name in state if name not in own),
        *(
            f"has {name} {list(state[name].shape)}, the model {list(own[name].shape)}"
            for name in own
            if name in state and own[name].shape != state[name].shape
        ),
    ]
    more = f"; and {len(complaints) - _MOST_COMPLAINTS} more" if len(complaints) > _MOST_COMPLAINTS else ""
    return f"{'; it '.join(complaints[:_MOST_COMPLAINTS])}{more}"
