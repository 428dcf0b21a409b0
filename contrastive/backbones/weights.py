"""Initial weights: the tensors of a file matched by name with those of a network.

A file may hold the network under a prefix (``state_dict``, ``module.encoder_q``, ``teacher.backbone``) and
others next to it. Prefixes are derived from the names of the network's own weights (:func:`load_weights`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from contrastive.backbones.weight_files import State, WeightsFile, read_weights
from contrastive.errors import UsageError, did_you_mean
from contrastive.text import abbreviate, quantity

#: Converts weights of other names or shapes to those of a network.
Converter = Callable[[State, nn.Module], State]

_REMEDY = "Set the model, stem, options, image size and input channels these weights were trained with."
_MOST_COMPLAINTS = 3
_BATCHES_SEEN = "num_batches_tracked"  # a count that batch norms had not in old files; torch takes it as 0
#: Steps of names under which training keeps other tensors than weights, by the names of the weights.
_NO_NETWORK = re.compile(
    r"optim|optim_\w+|\w*optimi[sz]er\w*|\w*exp_avg\w*|momentum_buffers?|grads?|gradients?"
)
#: Parameters of a network outside its modules that decide what it is: tokens, and positions.
_OWN_PARAMETER = re.compile(
    r"(cls|class|dist|reg|register|storage|pos|position\w*|\w*_pos)_?\w*(token|embed)\w*"
)
#: The tokens before the patches of a vision transformer, in files.
_PREFIX_TOKENS = ("cls_token", "dist_token", "reg_token", "register_tokens", "class_token")


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
            f"weights: {source.path} holds this model under "
            f"{quantity(len(names), 'prefix', 'prefixes')}: {listing}."
            f" Choose one: weights: {{path: {source.path}, prefix: '{names[-1]}'}}."
        )
    if complaint := _nonfinite(net, matches[0]):
        raise UsageError(f"weights: {source.path} cannot be used: it {complaint}")
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
    whole = [prefix for prefix in ranking if 2 * counts[prefix] >= len(own)]
    likely = [prefix for prefix in whole if not _is_no_network(prefix)]
    if source.prefix is None and not likely and whole:
        raise UsageError(
            f"weights: {source.path} has the model's names only under '{whole[0].rstrip('.')}', which is what"
            " training keeps next to weights. Give a file with the weights themselves."
        )
    if source.prefix is None:
        return likely or [""]
    choice = f"{source.prefix.rstrip('.')}." if source.prefix.strip(".") else ""
    if _is_no_network(choice):
        raise UsageError(f"weights: '{source.prefix}' in {source.path} belongs to a training, not a network.")
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


def _is_no_network(prefix: str) -> bool:
    """Whether names under a prefix are those of an optimizer's state or of gradients."""
    return any(_NO_NETWORK.fullmatch(step) for step in prefix.split("."))


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
    if complaint := _no_floats(net, state):
        return _Fit(prefix, {}, (), complaint)
    if mismatch(net, state):
        if complaint := _other_patches(net, state, stems) or _oblong_grid(net, state):
            return _Fit(prefix, {}, (), complaint)
        if convert is not None:
            state, others = _split(net, _conversion(convert, under, net), ignore)
        state = _with_channels_of(net, state, stems)
        notes += _changes(under, state)
    if complaint := mismatch(net, state):
        return _Fit(prefix, {}, (), f"{complaint}. {_REMEDY}")
    if complaint := _no_floats(net, state):
        return _Fit(prefix, {}, (), complaint)
    if others:
        notes.append(f"left out {abbreviate(others)}, which the model does not have")
    return _Fit(prefix, state, notes, "")


def _no_floats(net: nn.Module, state: State) -> str:
    """The complaint if weights are whole, logical or complex numbers, as a quantised network's; or empty.

    Counts and indices, which ``net`` keeps as integers, may be of any type.
    """
    for name, own in net.state_dict().items():
        value = state.get(name)
        if value is not None and own.is_floating_point() and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            return f"has {name} as {kind}; weights must be floating-point numbers, take the original ones."
    return ""


def _nonfinite(net: nn.Module, fit: _Fit) -> str:
    """The complaint if a weight is not finite in the type of ``net``; empty if all are."""
    for name, own in net.state_dict().items():
        if own.is_floating_point() and not fit.state[name].to(own.dtype).isfinite().all():
            return (
                f"has {fit.prefix}{name} with NaN or infinite values, as a diverging training leaves;"
                " take an earlier checkpoint."
            )
    return ""


def _split(net: nn.Module, state: State, ignore: tuple[str, ...]) -> tuple[State, list[str]]:
    """What belongs to ``net``, and what lies next to it: classifiers, heads by other names, and parameters
    outside modules, such as a queue or a temperature.

    A name within a module that ``net`` has stays, because a deeper network is not this one; so do tokens and
    positions, without which the network is another one.
    """
    own, children = net.state_dict(), {name for name, _ in net.named_children()}
    tops = {module.partition(".")[0] for module in ignore}
    heads = (*ignore, *(top for top in tops if not any(name.startswith(f"{top}.") for name in own)))
    matching: State = {}
    others: dict[str, None] = {}
    for name, value in state.items():
        module, dot, _ = name.partition(".")
        classifier = next((head for head in heads if name.startswith(f"{head}.")), None)
        is_beside = module not in children if dot else not _is_own_parameter(net, name)
        if name in own or not (classifier or is_beside):
            matching[name] = value
        else:
            others[classifier or module] = None
    for name, value in own.items():
        if name.endswith(_BATCHES_SEEN) and name not in matching:
            matching[name] = torch.zeros_like(value, device="cpu")
    return matching, list(others)


def _is_own_parameter(net: nn.Module, name: str) -> bool:
    """Whether a parameter outside all modules is of a network like ``net``, which may lack it."""
    return hasattr(net, name) or _OWN_PARAMETER.fullmatch(name) is not None


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
    tokens = [value for name, value in state.items() if name.endswith(_PREFIX_TOKENS)]
    if len(tokens) < sum(name.endswith(_PREFIX_TOKENS) for name in net.state_dict()):
        return ""  # that some are absent is the complaint
    prefix_tokens = sum(value.shape[-2] for value in tokens if value.ndim > 1)
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
            notes.append(f"{name} {how} from {old[1]} to {quantity(new[1], 'input channel')}, as timm does")
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
    if more <= 0:
        return notes
    return [*notes[:_MOST_COMPLAINTS], f"and {quantity(more, 'more weight')} in the same way"]


def mismatch(net: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What in ``state`` does not fit ``net``: "lacks fc.bias; it has ..."; empty if everything fits.

    Buffers that a part declares as ``growing`` may have any size.
    """
    own = net.state_dict()
    growing = {
        f"{path}.{name}".lstrip(".")
        for path, module in net.named_modules()
        for name in getattr(module, "growing", ())
    }
    complaints = [
        *(f"lacks {name}" for name in own if name not in state),
        *(f"has {name}, which the model lacks" for name in state if name not in own),
        *(
            f"has {name} {list(state[name].shape)}, the model {list(own[name].shape)}"
            for name in own
            if name in state and name not in growing and own[name].shape != state[name].shape
        ),
    ]
    more = f"; and {len(complaints) - _MOST_COMPLAINTS} more" if len(complaints) > _MOST_COMPLAINTS else ""
    return f"{'; it '.join(complaints[:_MOST_COMPLAINTS])}{more}"
