"""What a page is about: an encoder on its data, or a file of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.commands.report.images import ReportImages
from contrastive.commands.report.predictions import QueryPart, knn_of, query_part_of, query_part_of_encoder
from contrastive.commands.report.record import notes
from contrastive.curation import FeatureTable
from contrastive.protocols import KNN
from contrastive.runs import LoadedEncoder, Run
from contrastive.text import quantity


@dataclass(frozen=True)
class EncoderRecord:
    """What a page shows of an encoder besides its images.

    Attributes:
        subject: the encoder on its data.
        metrics: summary.json of a run, or what ``evaluate`` returns; empty without metrics.
        run: that trained it, on these data; None for other encoders and data.
    """

    subject: LoadedEncoder
    metrics: Mapping[str, Any]
    run: Run | None


@dataclass(frozen=True)
class About:
    """What a page is about, and how classes are predicted on it.

    Attributes:
        title: of the page.
        facts: below it.
        notes: what a reader must know before anything else.
        unreadable: name and reason of every image that could not be read.
        query_part: the images whose classes are predicted.
        knn: predicts them.
        record: of the encoder; None of a file of features, whose encoder is unknown.
    """

    title: str
    facts: Sequence[str]
    notes: Sequence[str]
    unreadable: Sequence[str]
    query_part: QueryPart
    knn: KNN
    record: EncoderRecord | None = None

    @classmethod
    def encoder(cls, record: EncoderRecord, images: ReportImages) -> About:
        """A page about an encoder."""
        recipe, run = record.subject.recipe, record.run
        by_run = [] if run is None else run.summary.get("unreadable", [])  # the page may read fewer images
        facts = [str(recipe.backbone.params.get("model", recipe.backbone.name)), recipe.dataset.name]
        facts.append(_sizes(images.sizes))
        if run is not None:
            facts.append(f"seed {recipe.train.seed}")
        return cls(
            title=recipe.name,
            facts=facts,
            notes=[] if run is None else notes(run),
            unreadable=sorted({*record.subject.evaluation.unreadable, *by_run}),
            query_part=query_part_of_encoder(record.subject),
            knn=knn_of(record.subject),
            record=record,
        )

    @classmethod
    def features(cls, table: FeatureTable, source: str | Path, images: ReportImages) -> About:
        """A page about a file of features.

        Args:
            table: of the whole file.
            source: its path.
            images: of the report.
        """
        width = table.vectors.shape[1]
        note = (
            f"This page is about the features in {source}, of width {width:,}, and "
            f"{quantity(len(table), 'image')} that they are of. Metrics need the encoder: "
            "`contrastive evaluate ENCODER`."
        )
        return cls(
            title=Path(source).name,
            facts=[f"features of width {width:,}", _sizes(images.sizes)],
            notes=[note],
            unreadable=images.table.unreadable,
            query_part=query_part_of(table),
            knn=KNN("auto"),
        )


def _sizes(sizes: Mapping[str, int]) -> str:
    return f"images: {', '.join(f'{size:,} {split}' for split, size in sizes.items())}"
