"""The page of a report: which sections it has, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from contrastive.commands.planes import MapKind
from contrastive.commands.report.classes import class_section, confusion_section
from contrastive.commands.report.galleries import Galleries, view_section
from contrastive.commands.report.images import ReportImages
from contrastive.commands.report.likeness import Neighbours
from contrastive.commands.report.predictions import Predictions, predict
from contrastive.commands.report.record import (
    cost_section,
    curve_section,
    metric_section,
    notes,
    text_section,
    verdict,
)
from contrastive.pages import Section, frame, text_list
from contrastive.runs import LoadedEncoder, Run
from contrastive.text import abbreviate, quantity


def render(
    subject: LoadedEncoder,
    images: ReportImages,
    metrics: Mapping[str, Any],
    run: Run | None,
    kind: MapKind = "pca",
    progress: Callable[[str], None] = lambda _: None,
) -> str:
    """The whole page.

    Args:
        subject: the encoder on its data.
        images: read by it.
        metrics: summary.json of a run, or what ``evaluate`` returns; empty without metrics.
        run: that trained it, on these data; None for other encoders and data.
        kind: of the map.
        progress: called with what is being done.
    """
    galleries = Galleries(images)
    sections = [metric_section(metrics, is_run=run is not None)]
    if run is not None:
        sections += [curve_section(run), view_section(subject, galleries.sprites, progress)]
    sections += _image_sections(galleries, kind, progress)
    sections += _class_sections(subject, images, galleries.absences)
    if run is not None:
        if run.summary:
            sections.append(cost_section(run))
        sections.append(text_section("recipe", "Recipe", run.folder / "recipe.yaml"))
        sections.append(text_section("environment", "Environment", run.folder / "environment.json"))
    if not sections[0].body:
        galleries.absences.insert(0, f"No metrics: {_absence_of_metrics(metrics)}.")
    sections.append(Section("absences", "Not shown", text_list(galleries.absences)))
    sentences = verdict(metrics)
    lead = text_list(_notes(subject, images, run), "notes")
    if sentences:
        sections.insert(0, Section("verdict", "Verdict", text_list(sentences, "lead")))
    facts, style = _facts(subject, images, run), galleries.style
    return frame(subject.recipe.name, facts, sections, lead=lead, style=style, has_contents=True)


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


def _class_sections(subject: LoadedEncoder, images: ReportImages, absences: list[str]) -> list[Section]:
    if not images.features.isfinite().all():
        return []
    predictions = predict(images, subject)
    if isinstance(predictions, Predictions):
        return [class_section(predictions, images), confusion_section(predictions, images)]
    absences.append(f"No table of classes: {predictions}.")
    return []


def _absence_of_metrics(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return "the run has not finished"
    return "the recipe has no protocols" if metrics.get("protocols") == {} else "the images have no labels"


def _facts(subject: LoadedEncoder, images: ReportImages, run: Run | None) -> str:
    sizes = [f"{len(table):,} {split}" for split, table in images.splits]
    backbone = subject.recipe.backbone.params.get("model", subject.recipe.backbone.name)
    facts = [str(backbone), subject.recipe.dataset.name, f"images: {', '.join(sizes)}"]
    if run is not None:
        facts.append(f"seed {subject.recipe.train.seed}")
    return " · ".join(facts)


def _notes(subject: LoadedEncoder, images: ReportImages, run: Run | None) -> list[str]:
    """What a reader must know before anything else."""
    lines = [] if run is None else notes(run)
    if images.sample_size < images.total:
        lines.append(
            f"Neighbours, map, outliers, duplicates and classes are of {images.sample_size:,} of "
            f"{quantity(images.total, 'image')}, chosen by a hash of their ids."
        )
    if unreadable := sorted(subject.evaluation.unreadable):
        names = abbreviate(unreadable, "; ")
        lines.append(f"{quantity(len(unreadable), 'image')} could not be read: {names}.")
    return lines
