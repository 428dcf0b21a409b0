"""The page of a report: which sections it has, and in which order."""

from __future__ import annotations

from collections.abc import Callable

from contrastive.commands.image_outputs import notes_on
from contrastive.commands.planes import MapKind
from contrastive.commands.report.about import About, EncoderRecord
from contrastive.commands.report.classes import class_section, confusion_section
from contrastive.commands.report.galleries import Galleries, view_section
from contrastive.commands.report.images import MOST_IMAGES, ReportImages
from contrastive.commands.report.likeness import Neighbours
from contrastive.commands.report.predictions import predict
from contrastive.commands.report.record import (
    cost_section,
    curve_section,
    metric_section,
    text_section,
    verdict,
)
from contrastive.pages import FoldedList, Section, frame, text_list
from contrastive.runs import metrics_obstacle
from contrastive.text import quantity


def render(
    about: About,
    images: ReportImages,
    kind: MapKind = "pca",
    progress: Callable[[str], None] = lambda _: None,
) -> str:
    """The whole page.

    Args:
        about: what the page is about.
        images: of it.
        kind: of the map.
        progress: called with what is being done.
    """
    galleries, record = Galleries(images), about.record
    run = None if record is None else record.run
    sections: list[Section] = []
    if record is not None:
        sections += _metric_sections(record, galleries.absences)
        if run is not None:
            sections += [curve_section(run), view_section(record.subject, galleries.sprites, progress)]
    sections += _image_sections(galleries, kind, progress)
    sections += _class_sections(about, images, galleries.absences)
    if run is not None:
        if run.summary:
            sections.append(cost_section(run))
        sections.append(text_section("recipe", "Recipe", run.folder / "recipe.yaml"))
        sections.append(text_section("environment", "Environment", run.folder / "environment.json"))
    sections.append(Section("absences", "Not shown", text_list(galleries.absences)))
    lead, facts = text_list(_notes(about, images), "notes"), " · ".join(about.facts)
    return frame(about.title, facts, sections, lead=lead, style=galleries.style, has_contents=True)


def _metric_sections(record: EncoderRecord, absences: list[str]) -> list[Section]:
    """Verdict and metrics."""
    section = metric_section(record.metrics, is_run=record.run is not None)
    if not section.body:
        reason = metrics_obstacle(record.metrics) if record.metrics else "the run has not finished"
        absences.append(f"No metrics: {reason}.")
    sentences = verdict(record.metrics)
    if not sentences:
        return [section]
    return [Section("verdict", "Verdict", text_list(sentences, "lead")), section]


def _image_sections(galleries: Galleries, kind: MapKind, progress: Callable[[str], None]) -> list[Section]:
    """Neighbours, map, outliers, likely duplicates and defects."""
    images = galleries.images
    if not images.features.isfinite().all():
        galleries.absences.append(
            "No neighbours, map, outliers and likely duplicates: some features are not finite."
        )
        return galleries.defects()
    if len(images) < 2:
        galleries.absences.append(
            "No neighbours, outliers and likely duplicates: the report has a single image."
        )
        return [galleries.map(kind), *galleries.defects()]
    progress("report: neighbours")
    neighbours = Neighbours.of(images.features)
    progress("report: map")
    sections = [galleries.neighbours(neighbours), galleries.map(kind)]
    progress("report: outliers, likely duplicates")
    sections += [galleries.outliers(neighbours), galleries.duplicates(neighbours)]
    return [*sections, *galleries.defects()]


def _class_sections(about: About, images: ReportImages, absences: list[str]) -> list[Section]:
    if not images.features.isfinite().all():
        return []
    predictions = predict(images, about.query_part, about.knn)
    if isinstance(predictions, str):
        absences.append(f"No table of classes: {predictions}.")
        return []
    classes = class_section(predictions, images, has_metrics=about.record is not None)
    return [classes, confusion_section(predictions, images)]


def _notes(about: About, images: ReportImages) -> list[str | FoldedList]:
    """What a reader must know before anything else."""
    lines: list[str | FoldedList] = [*about.notes]
    if images.sample_size < images.total:
        sections = ["Neighbours", "map", "outliers", "duplicates"]
        sections += ["classes"] if (images.labels >= 0).any() else []
        most = min(images.total, MOST_IMAGES)
        readable = "all of them" if most == images.total else f"{most:,} of them"
        run = None if about.record is None else about.record.run
        has_more = run is not None and images.sample_size < most
        remedy = f" `contrastive report {run.folder}` reads {readable}." if run and has_more else ""
        lines.append(
            f"{', '.join(sections[:-1])} and {sections[-1]} are of {images.sample_size:,} of "
            f"{quantity(images.total, 'image')}, chosen by a hash of their ids.{remedy}"
        )
    return [*lines, *notes_on(about.unreadable)]
