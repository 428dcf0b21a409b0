"""``contrastive report``: writes one page about a run, another encoder, or a file of features."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from contrastive import interrupts
from contrastive.build import DataSets
from contrastive.commands.evaluate import metrics_of
from contrastive.commands.image_outputs import with_pictures
from contrastive.commands.output import print_json
from contrastive.commands.planes import MapKind
from contrastive.commands.report.about import About, EncoderRecord
from contrastive.commands.report.images import ReportImages, read_images, read_images_of
from contrastive.commands.report.page import render
from contrastive.curation import is_feature_file, open_features
from contrastive.errors import Interrupted
from contrastive.files import read_map, require_replaceable, writable_by_user, write_whole
from contrastive.pages import is_page
from contrastive.recipe import require_outside_data, set_tree
from contrastive.registry import load_registry
from contrastive.runs import Display, LoadedEncoder, Overrides, Run, load_encoder

#: Name of the page in a run folder.
PAGE = "report.html"
#: Seconds that the images of a report may take at the end of a run: this share of the run's, and at least...
_SHARE, _LEAST_SECONDS = 0.05, 2.0


def main(arguments: argparse.Namespace) -> int:
    """Write the page and print its path."""
    outcome = report(arguments.source, arguments.overrides, out=arguments.out, kind=arguments.map)
    if arguments.json:
        print_json(outcome)
    else:
        print(outcome["report"])
    return 0


def report(
    source: str | Path,
    overrides: Overrides = (),
    *,
    out: str | Path | None = None,
    kind: MapKind = "pca",
    seconds: float | None = None,
    display: Display | None = None,
    open_data_sets: DataSets | None = None,
) -> dict[str, Any]:
    """Write a page about an encoder on its data set, or about a file of features.

    Args:
        source: a run folder, or any other of :func:`contrastive.runs.load_encoder`; or a parquet file, as
            :func:`contrastive.curation.open_features` takes it. Its images are those of its data set
            (``overrides``), or else the files that its names are paths of.
        overrides: as for ``--set``.
        out: the page; by default ``report.html`` in the folder of a run on its own data, else
            ``<name>-report.html``.
        kind: of the map.
        seconds: that reading images may take; by default, and of a file of features, as long as they need.
        display: shows progress, by default on standard error.
        open_data_sets: those that are already open.

    Returns:
        The path (``report``), its size in ``bytes``, and how many ``images`` it shows.

    Raises:
        UsageError: any error of :func:`load_encoder` or :func:`open_features`, the images of a file of
            features are nowhere, a package that the map needs is missing, or ``out`` holds something else.
        DataError: no image can be read.
    """
    with display or Display(sys.stderr) as screen:
        screen.phase("report: opening the data")
        if is_feature_file(source):
            page, about, images = _of_features(source, overrides, out, screen)
        else:
            page, about, images = _of_encoder(source, overrides, out, seconds, screen, open_data_sets)
        text = render(about, images, kind, screen.phase)
        with writable_by_user(page):
            write_whole(page, text)
    return {"report": str(page), "bytes": page.stat().st_size, "images": len(images)}


def _of_features(
    source: str | Path, overrides: Overrides, out: str | Path | None, screen: Display
) -> tuple[Path, About, ReportImages]:
    """The page of a file of features."""
    page = Path(f"{Path(source).stem}-{PAGE}") if out is None else Path(out)
    _require_writable(page, out)
    table = with_pictures(open_features(source, load_registry(), overrides, {"--out": page}), source)
    images = read_images_of(table, screen.phase)
    return page, About.features(table, source, images), images


def _of_encoder(
    source: str | Path,
    overrides: Overrides,
    out: str | Path | None,
    seconds: float | None,
    screen: Display,
    open_data_sets: DataSets | None,
) -> tuple[Path, About, ReportImages]:
    """The page of an encoder."""
    subject = load_encoder(source, load_registry(), overrides, open_data_sets)
    run = _own_run(subject, overrides)
    page = _page_of(subject, run, out)
    _require_writable(page, out)
    require_outside_data(page, subject.recipe)
    images = read_images(subject, seconds, screen.phase)
    metrics = run.summary if run is not None else _metrics(subject, screen)
    return page, About.encoder(EncoderRecord(subject, metrics, run), images), images


def _require_writable(page: Path, out: str | Path | None) -> None:
    """Raise UsageError if a page, that ``out`` names or not, would replace something else."""
    if page.exists() or out is not None:
        require_replaceable(page, is_page, "a page that contrastive wrote")


def report_at_end(run: Run, display: Display, open_data_sets: DataSets) -> None:
    """Write the page of a finished run, which stays finished if that fails; a warning then has the reason.

    A page that is newer than the run's summary stays.

    Args:
        run: has just finished, or had before.
        display: shows progress and the warning.
        open_data_sets: among them that of the run.
    """
    page, summary = run.folder / PAGE, run.folder / "summary.json"
    if page.exists() and page.stat().st_mtime >= summary.stat().st_mtime:
        return
    seconds = max(_LEAST_SECONDS, _SHARE * run.summary.get("wall_seconds", 0.0))
    start = time.monotonic()
    response = interrupts.Response(lambda _: "interrupted; the run is finished, its report is not")
    try:
        with interrupts.responding(response):
            outcome = report(run.folder, seconds=seconds, display=display, open_data_sets=open_data_sets)
    except Interrupted:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        display.warn(f"no report: {reason}")
        return
    display.log(f"report: {outcome['report']}, made in {time.monotonic() - start:.1f} s")
    display.log(f"to read it: contrastive open {run.folder}")


def _own_run(subject: LoadedEncoder, overrides: Overrides) -> Run | None:
    """The run of an encoder on the data that trained it, wherever they are now; None of any other."""
    if subject.run is None or set_tree(overrides).keys() - {"dataset", "train"}:
        return None
    data = read_map(subject.run / "environment.json").get("data")
    return Run(subject.run) if not overrides or data == subject.data.fingerprint else None


def _page_of(subject: LoadedEncoder, run: Run | None, out: str | Path | None) -> Path:
    if out is not None:
        return Path(out)
    if run is not None:
        return run.folder / PAGE
    return Path(f"{subject.recipe.name}-{PAGE}")


def _metrics(subject: LoadedEncoder, display: Display) -> dict[str, Any]:
    """The metrics of an encoder that is not a run on its own data."""
    display.phase("report: metrics")
    metrics = metrics_of(subject)
    metrics["images"] = {"scored": subject.evaluation.images_scored if metrics["trained"] else 0}
    return metrics
