"""Encoders: backbones, heads, and the targets that encode the keys."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.errors import UsageError
from contrastive.parts.base import StepPart
from contrastive.values import Progress


class Backbone(StepPart):
    """Pixels -> features h. ``features`` is F; ``forward``: float [b, C, h, w] in [0, 1] -> [b, F].

    Attributes:
        notes: sentences about how it was built that a run and ``contrastive check`` print, such as which of
            several networks in a file its weights come from.
    """

    kind = "backbone"
    features: int
    notes: tuple[str, ...] = ()

    def export(self, folder: str) -> None:
        """Write this backbone so that timm loads it; raises UsageError if timm cannot."""
        raise UsageError(f"{type(self).__name__} has no timm export; use a timm backbone to export one.")


class Head(StepPart):
    """Features h -> embedding z; as predictor, z -> p. ``out_features`` is D.

    Attributes:
        is_identity: whether it returns its input; a recipe with it as predictor has no predictor.
    """

    kind = "head"
    out_features: int
    is_identity: bool = False


class Target(StepPart):
    """The network that encodes the keys.

    Attributes:
        detached: whether its keys carry no gradient.
        encodes: whether it encodes every view with an encoder of its own, instead of reusing the online
            embeddings.
        own_statistics: whether keys are to be normalised by other images than the whole batch of all
            processes. If so, batch norm of either encoder uses the images that it gets in its own process;
            otherwise, on several GPUs, those of all.
    """

    kind = "target"
    detached: bool = False
    encodes: bool = False
    own_statistics: bool = False

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

    def bind(self, encoder: nn.Module) -> None:
        self.of.bind(encoder)

    def forward(
        self,
        views: Mapping[int, Tensor],
        online: Mapping[int, Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> dict[int, Tensor]:
        return self.of(views, online, encode)

    def substitute(self, keys: dict[int, Tensor]) -> dict[int, Tensor]:
        return self.of.substitute(keys)

    def before_step(self, progress: Progress) -> None:
        self.of.before_step(progress)

    def after_batch(self, comparison: Comparison) -> None:
        self.of.after_batch(comparison)

    def after_step(self, progress: Progress) -> None:
        self.of.after_step(progress)
