"""An objective as a recipe names it: what it compares, and its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from contrastive.kinds import Addition
from contrastive.recipe.additions import section_values
from contrastive.recipe.part_spec import PartSpec
from contrastive.recipe.signature import STRICT

ViewList = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Views(BaseModel):
    """Which views each encoder encodes."""

    model_config = STRICT

    online: Literal["all"] | ViewList = Field(
        "all", description="Views that the online encoder turns into queries."
    )
    target: Literal["all"] | ViewList = Field("all", description="Views that the target encodes as keys.")
    batch_norm: Literal["joint", "separate"] = Field(
        "joint", description="joint: views of one size form one batch; separate: one forward pass per view."
    )
    pairs: Annotated[Literal["other", "same"], Addition()] = Field(
        "other",
        description="other: each online view with every other target view; same: each view with itself, "
        "whose key must come from another encoder or from pixels.",
    )


class MatchKeys(BaseModel):
    """Which key is a patch's own."""

    model_config = STRICT

    by: Literal["position", "location", "features"] = Field(
        default="position",
        description="position: the same one in the grid; location: the nearest in the image; features: the "
        "most similar one.",
    )
    of: Literal["z", "tokens"] = Field(
        default="z",
        description="Which features are compared: embeddings of the head, or tokens of the backbone.",
    )
    keep: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="Only this many of an image's patches, those with the closest matches."
    )


class ObjectiveKeys(BaseModel):
    """What an objective compares, besides its parts."""

    model_config = STRICT

    level: Literal["image", "patch"] = Field(
        default="image", description="Whole images are compared, or patches."
    )
    positives: Literal["image", "label"] = Field(
        default="image",
        description="image: keys of the same image are positives; label: also keys of the same label.",
    )
    hide: Literal["none", "drop", "replace"] = Field(
        default="none",
        description="How the online encoder does not see masked patches: drop leaves them out, replace puts "
        "a learnt token in their place.",
    )
    rows: Literal["auto", "all", "masked", "targets"] = Field(
        default="auto",
        description="Patches that are compared: all, the masked ones, or the targets that the augmentation "
        "marks; auto: masked if some are hidden, else all.",
    )
    match: MatchKeys = Field(default=MatchKeys(), description="Which key is a patch's own.")
    weight: float = Field(default=1.0, gt=0, description="Factor of the objective in the sum of objectives.")

    @property
    def chosen_rows(self) -> Literal["all", "masked", "targets"]:
        """Which patches are compared."""
        if self.rows == "auto":
            return "all" if self.hide == "none" else "masked"
        return self.rows

    @property
    def reads_marks(self) -> bool:
        """Whether masks, targets or places of views are read."""
        is_patch = self.level == "patch"
        return self.hide != "none" or (
            is_patch and (self.chosen_rows != "all" or self.match.by == "location")
        )

    @property
    def reads_tokens(self) -> bool:
        """Whether patches are read or hidden."""
        return self.level == "patch" or self.hide != "none"


class WeightedLoss(NamedTuple):
    """A loss and its weight in the sum of losses."""

    weight: float
    part: PartSpec


#: The keys of a recipe that take a part and that the objectives of a recipe may share.
COMMON = ("head", "target")


@dataclass(frozen=True)
class ObjectiveSpec:
    """An objective as a recipe names it.

    Attributes:
        common: which of its parts stand at the top level of the recipe.
        own_views: whether it names its own views.
    """

    name: str
    keys: ObjectiveKeys
    views: Views
    head: PartSpec
    predictor: PartSpec | None
    target: PartSpec
    negatives: tuple[PartSpec, ...]
    losses: tuple[WeightedLoss, ...]
    common: frozenset[str] = frozenset()
    own_views: bool = True

    @property
    def prefix(self) -> str:
        """The beginning of the paths of its keys in a recipe."""
        return f"objectives.{self.name}." if self.name else ""

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads more of the backbone than one vector per image."""
        return self.keys.reads_tokens or self.head.pools

    @property
    def views_path(self) -> str:
        """The path of its views in the recipe."""
        return f"{self.prefix}views" if self.own_views else "views"

    def path(self, key: str) -> str:
        """The path of a key in the recipe."""
        return key if key in self.common else self.prefix + key

    def common_parts(self) -> dict[str, PartSpec]:
        """The parts that stand at the top level."""
        parts = {"head": self.head, "target": self.target}
        return {key: part for key, part in parts.items() if key in self.common}

    def parts(self) -> Iterator[PartSpec]:
        """Its parts, each once."""
        single = (self.head, self.predictor, self.target)
        several = (*self.negatives, *(part for _, part in self.losses))
        yield from (part for part in (*single, *several) if part is not None)

    def parts_at(self, key: str) -> list[tuple[str, PartSpec]]:
        """The parts of a key that takes several, with their paths: ``loss``, or ``loss.1`` in a list."""
        specs = self.negatives if key == "negatives" else tuple(part for _, part in self.losses)
        path = self.prefix + key
        return [(f"{path}.{index}" if len(specs) > 1 else path, spec) for index, spec in enumerate(specs)]

    def dump(self, additions: bool = True) -> dict[str, Any]:
        """Plain values, as in :meth:`Recipe.dump`."""
        losses = [{**loss.part.dump(additions), "weight": loss.weight} for loss in self.losses]
        values = {
            **self.keys.model_dump(mode="json"),
            "views": dump_section(self.views, additions) if self.own_views else None,
            "head": self.head.dump(additions),
            "predictor": self.predictor.dump(additions) if self.predictor else "none",
            "target": self.target.dump(additions),
            "negatives": one_or_many([part.dump(additions) for part in self.negatives]),
            "loss": one_or_many(losses),
        }
        return {key: value for key, value in values.items() if value is not None and key not in self.common}


def dump_section(values: BaseModel, additions: bool) -> dict[str, Any]:
    """The keys of a section as plain values, with or without additions at their default."""
    return values.model_dump(mode="json") if additions else section_values(values)


def one_or_many(dumps: list[dict[str, Any]]) -> Any:
    """One value as it is, several as a list."""
    return dumps[0] if len(dumps) == 1 else dumps
