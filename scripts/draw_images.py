"""Draw the pictures of README and docs from a run and a comparison::

    contrastive run simclr --set train.epochs=10 --out runs/pictures
    contrastive compare simclr supcon --seeds 2 --set train.epochs=2 --set evaluate.every=1 --out pictures
    python scripts/draw_images.py runs/pictures pictures/report.html

It writes ``docs/images/views.png``, ``run.png``, ``training.png`` and ``report.png``, and needs ``chromium``
(``apt-get install chromium fonts-dejavu``).
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import plotly.graph_objects as go
from PIL import Image, ImageChops, ImageOps
from plotly.subplots import make_subplots
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from contrastive import Run

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
LARGEST = 150 * 2**10  # bytes of a picture
COLUMNS = 80
#: A browser that opens one page and makes no requests of its own.
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
#: The page of a terminal. At this height of a line the frames of tables have no gaps.
TERMINAL = """<!DOCTYPE html><meta charset="utf-8">
<style>{stylesheet}
body {{ margin: 0 }}
pre {{ display: inline-block; margin: 0; padding: 14px 18px; color: {foreground}; background: {background};
font: 15px/1.16 "DejaVu Sans Mono", monospace }}</style><pre>{code}</pre>"""
BLUE, GREY, ORANGE = "#2f7fd0", "#9a9a9a", "#e08214"  # as in the report


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of README and docs.")
    parser.add_argument("run", type=Path, help="the folder of a finished run of simclr")
    parser.add_argument("report", type=Path, help="the report.html of a comparison")
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save(views(folder), "views", colours=64)
        save(terminal(arguments.run, folder), "run", colours=48)
        save(training(Run(arguments.run), folder), "training", colours=64)
        save(report(arguments.report, folder), "report", colours=64)


def views(folder: Path) -> Image.Image:
    """What ``contrastive preview`` draws of the shipped sample."""
    _contrastive("preview", "simclr", "--out", str(folder / "views.png"))
    return Image.open(folder / "views.png")


def terminal(run: Path, folder: Path) -> Image.Image:
    """What ``contrastive run`` prints of a run that has finished, in a terminal."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(f"$ contrastive run simclr --out {run}", style="bold", highlight=False)
    output = _in_terminal("run", str(run / "recipe.yaml"), "--out", str(run))
    console.print(Text.from_ansi(output.rstrip()), end="")
    page = folder / "run.html"
    page.write_text(console.export_html(theme=SVG_EXPORT_THEME, code_format=TERMINAL), "utf-8")
    return _trim(_screenshot(page, 1000, 800, folder), margin=0)


def training(run: Run, folder: Path) -> Image.Image:
    """The loss while the encoder trains, and its accuracy next to what needs no training."""
    figure = make_subplots(
        cols=2,
        column_widths=[0.5, 0.5],
        horizontal_spacing=0.1,
        subplot_titles=("Training loss (NT-Xent)", "Top-1 accuracy on the test split, %"),
    )
    steps = [line for line in run.metrics if "loss" in line]
    figure.add_scatter(
        x=[line["step"] for line in steps],
        y=[line["loss"] for line in steps],
        mode="lines",
        line={"color": BLUE, "width": 2},
        showlegend=False,
    )
    rows = (("trained", "SimCLR", BLUE), ("pixels", "raw pixels", ORANGE), ("untrained", "untrained", GREY))
    for row, title, colour in rows:
        accuracies = [100 * run.summary[row][metric] for metric in ("knn_top1", "linear_top1")]
        labels = [f"{accuracy:.1f}" for accuracy in accuracies]
        bars = go.Bar(x=["kNN", "linear probe"], y=accuracies, name=title, marker_color=colour, text=labels)
        figure.add_trace(bars, row=1, col=2)
    figure.update_traces(textposition="outside", cliponaxis=False, selector={"type": "bar"})
    figure.update_xaxes(title="step", col=1)
    figure.update_yaxes(range=[0, 100], col=2)
    figure.update_layout(
        template="plotly_white",
        font={"family": "DejaVu Sans, sans-serif", "size": 14},
        margin={"l": 40, "r": 20, "t": 50, "b": 60},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": -0.12},
        width=1000,
        height=380,
    )
    page = folder / "training.html"
    figure.write_html(page, include_plotlyjs=True, config={"staticPlot": True})
    return _trim(_screenshot(page, 1040, 420, folder), margin=16)


def report(page: Path, folder: Path) -> Image.Image:
    """The first screen of a comparison's report."""
    return _screenshot(page.resolve(), 1100, 1330, folder)


def save(image: Image.Image, name: str, *, colours: int) -> None:
    """Write a picture with a palette, which keeps it small. Raises ValueError if it is not small."""
    path = IMAGES / f"{name}.png"
    palette = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {image.width} x {image.height}, {size / 2**10:.0f} KiB")
    if size > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST // 2**10} KiB")


def _contrastive(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "contrastive", *arguments], check=True)


def _in_terminal(*arguments: str) -> str:
    """What a command prints to a terminal of :data:`COLUMNS` columns, with its escape codes."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "contrastive", *arguments]
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=end, stderr=end, env=environment
    ) as process:
        os.close(end)
        text = b"".join(_chunks(terminal)).decode()
    if process.returncode:
        raise ValueError(f"{' '.join(command)} exited with {process.returncode}:\n{text}")
    return text.replace("\r\n", "\n")


def _chunks(terminal: int) -> Iterable[bytes]:
    while True:
        try:
            chunk = os.read(terminal, 2**16)
        except OSError:  # how Linux reports that the other end is closed
            return
        if not chunk:
            return
        yield chunk


def _screenshot(page: Path, width: int, height: int, folder: Path) -> Image.Image:
    """A page as the browser shows it, at two pixels per CSS pixel."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise FileNotFoundError("chromium is not installed: apt-get install chromium fonts-dejavu")
    picture = folder / f"{page.stem}.png"
    options = [
        f"--user-data-dir={folder / 'profile'}",
        f"--screenshot={picture}",
        f"--window-size={width},{height}",
        "--force-device-scale-factor=2",
        "--virtual-time-budget=5000",  # ms, in which the page's scripts draw
    ]
    subprocess.run([browser, *QUIET, *options, page.as_uri()], check=True, capture_output=True, timeout=300)
    return Image.open(picture).convert("RGB")


def _trim(image: Image.Image, margin: int) -> Image.Image:
    """The picture with a white margin of that many pixels."""
    box = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    return ImageOps.expand(image.crop(box), border=margin, fill="white")


if __name__ == "__main__":
    main()
