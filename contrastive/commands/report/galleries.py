"""The sections of a report that show images: views, neighbours, map, outliers, likely duplicates, defects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from contrastive.commands.image_outputs import short_name
from contrastive.commands.planes import MapKind, neighbour_plane, obstacle_to_map, principal_plane
from contrastive.commands.preview import CELL, MarkChoice, first_readable, legend, marks_of, tiles
from contrastive.commands.report.images import (
    MOST_POINTS,
    THUMBNAIL,
    ReportImages,
)
from contrastive.commands.report.likeness import CANDIDATES, Neighbours, outliers, queries
from contrastive.commands.report.pixels import BLANK, BLUR, BLUR_SIDE, DARK
from contrastive.commands.thumbnails import Thumbnails
from contrastive.curation import find_duplicates
from contrastive.pages import (
    Group,
    MapPoints,
    Mark,
    Picture,
    Section,
    Sprite,
    feature_map,
    gallery,
    squares,
)
from contrastive.runs import LoadedEncoder
from contrastive.text import percent, quantity

#: Images with their views, and draws of each view.
_VIEWED_IMAGES, _DRAWS = 4, 3
_QUERIES, _NEIGHBOURS = 8, 5
#: Pictures of a wall, groups of likely duplicates, and pictures of such a group.
_WALL, _GROUPS, _GROUP = 24, 12, 6
#: CSS pixels of a thumbnail of the map.
_MAP_SIDE = 96


@dataclass
class Galleries:
    """Makes the sections that show images.

    Args:
        images: of the report.

    Attributes:
        thumbnails: of all galleries, but for those of the map and the views.
        absences: a sentence for each section that has nothing to show, and why.
    """

    images: ReportImages
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    absences: list[str] = field(default_factory=list)
    sprites: list[Sprite] = field(default_factory=list)

    @property
    def pictures(self) -> Sprite:
        """That of the thumbnails."""
        return self.thumbnails.sprite

    @property
    def style(self) -> str:
        """The CSS of all sprites."""
        return "".join(sprite.style() for sprite in (self.pictures, *self.sprites))

    def neighbours(self, neighbours: Neighbours) -> Section:
        """A few images, each with those nearest to it."""
        labels = self.images.labels
        groups = []
        for query in queries(len(self.images), labels.tolist(), _QUERIES):
            near = neighbours.positions[query, :_NEIGHBOURS].tolist()
            similarities = neighbours.similarities[query, :_NEIGHBOURS].tolist()
            pictures = [self._picture(query, self._class(query), "query")]
            for image, similarity in zip(near, similarities, strict=True):
                has_labels = labels[query] >= 0 and labels[image] >= 0
                mark: Mark = ("same" if labels[query] == labels[image] else "other") if has_labels else ""
                pictures.append(self._picture(image, [*self._class(image), f"{similarity:.2f}"], mark))
            groups.append(Group(pictures))
        frames = " A dashed frame: another class." if (labels >= 0).any() else ""
        remark = (
            "Each line starts with an image; those with the nearest features (cosine, below each) follow, "
            f"whatever split they are of.{frames}"
        )
        return Section("neighbours", "Nearest neighbours", gallery(groups, self.pictures), remark)

    def map(self, kind: MapKind) -> Section:
        """The features in a plane."""
        count = min(len(self.images), MOST_POINTS)
        features = self.images.features[:count]
        if obstacle := obstacle_to_map(features, kind):
            self.absences.append(f"No map: {obstacle}.")
            return Section("map", "Map", "")
        if kind == "pca":
            points, share = principal_plane(features)
            how = f"the first two principal components, which hold {percent(share)} of the variance"
        else:
            points = neighbour_plane(features, kind)
            how = f"{'UMAP' if kind == 'umap' else 't-SNE'}: near points are alike, far distances mean little"
        sprite = Sprite("map-pictures", THUMBNAIL, _MAP_SIDE, quality=60)
        self.sprites.append(sprite)
        numbers = [sprite.add(each) for each in squares(self.images.appearance.thumbnails[:count])]
        labels, indices = np.unique(self.images.labels[:count], return_inverse=True)
        unknown = int((labels < 0).sum())  # 1 if an image has no label
        classes = [self.images.class_name(label) for label in labels[unknown:].tolist()]
        names = [self.images.name(index) for index in range(count)]
        about = MapPoints(points.double().numpy(), names, classes, (indices - unknown).tolist(), numbers)
        caption = f"{quantity(count, 'image')}; {self.images.wording.features} at unit length, {how}."
        return Section("map", "Map", feature_map("features", "", caption, about, sprite))

    def outliers(self, neighbours: Neighbours) -> Section:
        """The images farthest from their neighbours."""
        indices = outliers(neighbours, _WALL)
        if not indices:
            self.absences.append("No outliers: all images are equally far from their neighbours.")
        distances = neighbours.distances
        count = neighbours.positions.shape[1]
        remark = (
            f"The images farthest from their {quantity(count, 'nearest neighbour')} (mean cosine distance, "
            f"below each; the median of all images is {np.median(distances):.3f})."
        )
        pictures = [self._picture(index, [f"{distances[index]:.3f}"]) for index in indices]
        return self._wall("outliers", "Outliers", pictures, remark)

    def duplicates(self, neighbours: Neighbours) -> Section:
        """Groups of images that likely show the same, without blank ones: those resemble each other."""
        all_groups, blank = self._duplicate_groups(neighbours), int(self._is_blank.sum())
        omission = f", not counting {quantity(blank, 'blank image')}" if blank else ""
        if not all_groups:
            self.absences.append(f"No likely duplicates among the images of this report{omission}.")
            return Section("duplicates", "Likely duplicates", "")
        count = sum(map(len, all_groups))
        splits = self.images.table.splits
        across = sum(len({*splits[group]}) > 1 for group in all_groups)
        groups = [
            Group(
                [self._picture(index, self._split(index)) for index in group[:_GROUP]],
                f"{quantity(len(group), 'image')}, {_GROUP} shown" if len(group) > _GROUP else "",
            )
            for group in all_groups[:_GROUPS]
        ]
        more = f" The first {_GROUPS} groups are shown." if len(all_groups) > _GROUPS else ""
        leak = f" Of several splits, which come first: {quantity(across, 'group')}."
        remark = (
            f"{quantity(count, 'image')} in {quantity(len(all_groups), 'group')}: near neighbours whose "
            f"small pictures hardly differ, perhaps mirrored{omission}.{leak if across else ''}{more} "
            "`contrastive duplicates` searches more thoroughly, for crops too."
        )
        return Section("duplicates", "Likely duplicates", gallery(groups, self.pictures), remark)

    def _duplicate_groups(self, neighbours: Neighbours) -> list[list[int]]:
        rows = np.flatnonzero(~self._is_blank)
        if len(rows) < 2:
            return []
        table, pictures = self.images.table, self.images.appearance.pictures
        if len(rows) < len(table):
            table, pictures = table.take(rows), pictures.take(rows)
            neighbours = Neighbours.of(table.vectors)
        pairs = find_duplicates(table, pictures, neighbours.positions[:, :CANDIDATES], strict=True)
        return [rows[group].tolist() for group in pairs.groups()]

    @property
    def _is_blank(self) -> np.ndarray:
        """bool [n]."""
        return self.images.appearance.measures["contrast"] < BLANK

    def defects(self) -> list[Section]:
        """Dark, blank and blurred images, a section for each kind that occurs."""
        measures, wording = self.images.appearance.measures, self.images.wording
        is_blank = self._is_blank
        sharpness = np.nan_to_num(measures["sharpness"], nan=np.inf)
        kinds = [
            (
                "blank",
                "Blank images",
                is_blank,
                "contrast",
                f"the standard deviation of their brightness is below {100 * BLANK:.0f} % of the range",
            ),
            (
                "dark",
                "Dark images",
                (measures["brightness"] < DARK) & ~is_blank,
                "brightness",
                f"their mean brightness is below {100 * DARK:.0f} % of the range",
            ),
            (
                "blur",
                "Blurred images, or images of smooth things",
                (sharpness < BLUR) & ~is_blank,
                "sharpness",
                f"at {BLUR_SIDE} px the variance of their Laplacian is below {100 * BLUR:.0f} % of the "
                "variance of their pixels",
            ),
        ]
        sections = []
        for key, heading, hits, measure, reason in kinds:
            indices = np.flatnonzero(hits)
            order = indices[np.argsort(measures[measure][indices], kind="stable")]
            more = f"; the {_WALL} most extreme are shown" if len(order) > _WALL else ""
            parts = f"both of the whole picture and of {wording.square}"
            remark = f"{quantity(len(order), 'image')}: {reason}, {parts}{more}."
            pictures = [self._picture(index) for index in order[:_WALL].tolist()]
            sections.append(self._wall(key, heading, pictures, remark))
        if not any(section.body for section in sections):
            self.absences.append(
                "No dark, blank or blurred images." if self._measures_blur else "No dark or blank images."
            )
        if not self._measures_blur:
            self.absences.append(f"Blur is not measured: {wording.small} below {BLUR_SIDE} px.")
        return sections

    @property
    def _measures_blur(self) -> bool:
        return not np.isnan(self.images.appearance.measures["sharpness"]).all()

    def _wall(self, key: str, heading: str, pictures: Sequence[Picture], remark: str) -> Section:
        return Section(key, heading, gallery([Group(pictures)], self.pictures) if pictures else "", remark)

    def _class(self, index: int) -> list[str]:
        """The class of an image, or its split if no image has a label."""
        labels = self.images.labels
        if (labels < 0).all():
            return self._split(index)
        return [self.images.class_name(int(labels[index]))]

    def _split(self, index: int) -> list[str]:
        """The split of an image, if there are several."""
        return [self.images.at(index)[0]] if len(self.images.sizes) > 1 else []

    def _picture(self, index: int, captions: Sequence[str] = (), mark: Mark = "") -> Picture:
        """An image of the report."""
        _, table, row = self.images.at(index)
        name = self.images.name(index)
        title = ": ".join([*self._split(index), name])
        return self.thumbnails.picture(table, row, title, captions, mark, short_name(name))


def view_section(subject: LoadedEncoder, sprites: list[Sprite], progress: Callable[[str], None]) -> Section:
    """A few training images, each with its views in the first epochs of the run."""
    progress("report: views")
    recipe, parts = subject.recipe, subject.parts
    reads_marks = any(aim.keys.reads_marks for aim in recipe.aims)
    choice = marks_of(parts.method) if reads_marks else MarkChoice()
    draws = min(_DRAWS, recipe.train.epochs)
    sprite = Sprite("views", CELL, CELL)
    groups = []
    images, ids = first_readable(subject.data.train, _VIEWED_IMAGES)
    for image, identity in zip(images, ids.tolist(), strict=True):
        original, views = tiles(image, identity, parts.pipelines, recipe.train.seed, draws, choice)
        pictures = [Picture(sprite.add(original.convert("RGB")), "the image", ["image"], "query")]
        pictures += [
            Picture(sprite.add(tile), f"view {view} in epoch {epoch}", [f"view {view}", f"epoch {epoch}"])
            for view, draws_of_view in enumerate(views)
            for epoch, tile in enumerate(draws_of_view)
        ]
        groups.append(Group(pictures))
    sprites.append(sprite)
    marks = "".join(f" {line[0].upper()}{line[1:]}." for line in legend(choice))
    when = "epoch" if draws == 1 else quantity(draws, "epoch")
    remark = f"The first images of train, and the views of them in the first {when}.{marks}"
    body = gallery(groups, sprite, in_lines=True) if groups else ""
    return Section("views", "Views that training compared", body, remark)
