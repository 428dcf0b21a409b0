"""Encoders: backbones, heads, and the targets that encode the keys."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.parts.base import StepPart
from contrastive.values import Progress
from contrastive.views import Tokens, View

#: How a pass hides the masked patches of a view: they are left out, or a learnt token takes their place.
Hiding = Literal["drop", "replace"]
#: What an objective compares: whole images, or patches.
Level = Literal["image", "patch"]


class Backbone(StepPart):
    """Pixels -> features h. ``features`` is F; ``forward``: float [b, C, h, w] in [0, 1] -> [b, F].

    Attributes:
        hides: the ways in which :meth:`tokens` can hide patches, such that no hidden pixel reaches what it
            returns of the others.
        has_class_token: whether the first of the tokens before the patches is a class token.
    """

    kind = "backbone"
    features: int
    hides: frozenset[Hiding] = frozenset()
    has_class_token: bool = False

    def tokens(self, view: View, keep: Tensor | None = None, hidden: Tensor | None = None) -> Tokens:
        """The tokens of a view; their ``h`` is what ``forward`` gives.

        Args:
            view: of the field that this backbone encodes.
            keep: [b, n] int64, ascending positions of the patches to encode; the others are left out.
            hidden: [b, N] bool, the patches that a learnt token replaces.

        Raises:
            UsageError: this backbone has no tokens, or cannot hide in that way.
        """
        raise UsageError(f"{type(self).__name__} gives no tokens; use a timm or torchvision backbone.")

    def block_outputs(self, view: View, count: int) -> list[Tensor]:
        """The patches as the last ``count`` blocks give them, before the last norm: each [b, N, G].

        Raises UsageError: this backbone has no blocks of tokens.
        """
        raise UsageError(f"{type(self).__name__} has no blocks of tokens; use a timm vision transformer.")

    def allow_replacing(self) -> None:
        """Called once, before training, if an objective hides by ``replace``: make the learnt token."""

    def export(self, folder: str) -> None:
        """Write this backbone so that timm loads it; raises UsageError if timm cannot."""
        raise UsageError(f"{type(self).__name__} has no timm export; use a timm backbone to export one.")


class Head(StepPart):
    """Features h -> embedding z; as predictor, z -> p. ``out_features`` is D.

    It works on vectors: of images, or of patches, whose width is that of the backbone's tokens.

    Attributes:
        is_identity: whether it returns its input; a recipe with it as predictor has no predictor.
        pools: whether :meth:`image` reads other tokens than ``h``.
        fills: whether :meth:`at` gives positions whose patches it was not given, as a decoder does.
    """

    kind = "head"
    out_features: int
    is_identity: bool = False
    pools: bool = False
    fills: bool = False

    def image(self, tokens: Tokens) -> Tensor:
        """z [b, D] of images, whole or what is visible of them; override it to pool tokens."""
        return self(tokens.h)

    def at(self, tokens: Tokens, positions: Tensor) -> Tensor:
        """z of the patches at some positions, which are among those of the tokens unless the head ``fills``.

        Args:
            tokens: of a view.
            positions: [b, n] or [b, M, n] int64; only these are computed.

        Returns:
            [b, n, D] or [b, M, n, D].
        """
        return self.of_rows(tokens.at(positions))

    def whole(self, output: Tensor | Tokens, level: Level) -> Tensor:
        """z of whole views: [b, D], or of all patches [b, N, D].

        Args:
            output: of the backbone: h [b, F], or tokens, which patches and heads that pool need.
            level: what z is of.
        """
        if isinstance(output, Tensor):
            return self(output)
        return self.image(output) if level == "image" else self.at(output, output.everywhere())

    def of_rows(self, x: Tensor) -> Tensor:
        """:meth:`forward` of vectors in any arrangement: [..., F] -> [..., D]."""
        return self(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


@dataclass(frozen=True)
class Request:
    """What an objective asks its target for: keys [b, D] of images, or [b, N, D] of patches.

    Attributes:
        level: what is compared.
        views: the objective's target views.
        online: view -> what the objective's online encoder has already computed of it: z [b, D], or
            [b, N, D] of all patches (before the predictor).
        encode: the online encoder, for views that are not in ``online``: pixels [b, C, h, w] -> z.
        grid: at level patch, rows and columns of the online encoder's patches, which the keys must have.
    """

    level: Level
    views: Mapping[int, View]
    online: Mapping[int, Tensor]
    encode: Callable[[Tensor], Tensor]
    grid: tuple[int, int] | None = None


def by_view(requests: Mapping[str, Request]) -> Iterator[tuple[int, View, dict[str, Request]]]:
    """Each view that is asked for, once: its number, the view, and the requests for it."""
    views = {number: view for request in requests.values() for number, view in request.views.items()}
    for number, view in views.items():
        yield number, view, {name: each for name, each in requests.items() if number in each.views}


class Target(StepPart):
    """The network that encodes the keys.

    Attributes:
        detached: whether its keys carry no gradient.
        encodes: whether it encodes every view with an encoder of its own, instead of reusing the online
            embeddings.
        own_statistics: whether keys are to be normalised by other images than the whole batch of all
            processes. If so, batch norm of either encoder uses the images that it gets in its own process;
            otherwise, on several GPUs, those of all.
        fixed: whether its keys cannot follow the online encoder (pixels, a frozen network), so that nothing
            collapses.
        features: width of its keys; None: that of the head.
    """

    kind = "target"
    detached: bool = False
    encodes: bool = False
    own_statistics: bool = False
    fixed: bool = False
    features: int | None = None

    def width(self, level: Level) -> int | None:
        """Width of its keys of images or of patches; None: that of the head. By default ``features``."""
        return self.features

    def join(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        """Called once, before training, with the online backbone and the head of every objective that asks
        this target for keys; by default :meth:`bind` if they share one head.

        Args:
            backbone: the online one.
            heads: objective -> its head; objectives may share one.

        Raises:
            UsageError: the target serves one head only.
        """
        several = {id(head): head for head in heads.values()}
        if len(several) > 1:
            raise UsageError(
                f"{type(self).__name__} serves one head, but {' and '.join(heads)} have heads of their own; "
                "write the target in each objective, or one head at the top level."
            )
        self.bind(nn.Sequential(backbone, *several.values()))

    def give(self, requests: Mapping[str, Request]) -> dict[str, dict[int, Tensor]]:
        """The keys of every objective that this target serves, in one call per pass.

        By default one call of ``forward`` per objective. Override it to encode a view once for all.

        Args:
            requests: objective -> what it asks for.

        Returns:
            objective -> view -> keys.
        """
        return {
            name: self(
                {number: view.data for number, view in request.views.items()}, request.online, request.encode
            )
            for name, request in requests.items()
        }

    def bind(self, encoder: nn.Module) -> None:
        """Called once, before training, with the online encoder: pixels [b, C, h, w] -> z [b, D].

        A target that copies it registers the copy; one that only keeps a reference must keep it out of its
        own ``state_dict`` (in a list, for example). Raises UsageError if the target cannot work with it.
        """

    @abstractmethod
    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        """Keys of the target's views; with ``train.chunk_size``, of one chunk of the batch per call.

        Args:
            views: view -> pixels [b, C, h, w], the target's views.
            online: view -> z [b, D], embeddings that the online encoder has already computed (before the
                predictor).
            encode: the online encoder, for views that are not in ``online``: pixels -> z.

        Returns:
            view -> keys [b, D].
        """

    def copies(self, objective: str) -> tuple[Backbone, Head] | None:
        """Its own backbone, and head of an objective that it serves, if they follow the online ones; or None.

        A run evaluates and exports them if its recipe says ``evaluate: {encoder: target}``.
        """
        return None

    def substitute(self, keys: dict[int, Tensor]) -> dict[int, Tensor]:
        """What queries are compared with instead of the keys; by default the keys themselves.

        Called once per batch, with the keys of the whole batch. ``after_batch`` finds those that ``forward``
        returned in ``comparison.target_keys``.

        Args:
            keys: view -> keys [b, D], as ``forward`` returned them.

        Returns:
            The same views -> [b, D].
        """
        return keys


class TargetWrapper(Target):
    """A target that changes the input or the output of another one.

    Subclass it and write ``forward`` or ``substitute`` using ``self.of``; the wrapped target does the rest.
    """

    def __init__(self, of: Target):
        super().__init__()
        self.of = of
        self.detached, self.encodes = of.detached, of.encodes
        self.own_statistics = self.own_statistics or of.own_statistics
        self.fixed, self.features = of.fixed, of.features

    def bind(self, encoder: nn.Module) -> None:
        self.of.bind(encoder)

    def give(self, requests: Mapping[str, Request]) -> dict[str, dict[int, Tensor]]:
        """By ``forward``, which encodes whole images only. Raises UsageError for patches."""
        if self.encodes and any(request.level == "patch" for request in requests.values()):
            raise UsageError(
                f"{type(self).__name__} gives no keys of patches; use the target that it wraps directly."
            )
        return super().give(requests)

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        return self.of(views, online, encode)

    def copies(self, objective: str) -> tuple[Backbone, Head] | None:
        return self.of.copies(objective)

    def substitute(self, keys: dict[int, Tensor]) -> dict[int, Tensor]:
        return self.of.substitute(keys)

    def before_step(self, progress: Progress) -> None:
        self.of.before_step(progress)

    def after_batch(self, comparison: Comparison) -> None:
        self.of.after_batch(comparison)

    def after_step(self, progress: Progress) -> None:
        self.of.after_step(progress)
