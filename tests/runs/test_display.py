"""What a user sees: plain lines, the live line, the final table."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from contrastive import monitors
from contrastive.runs import Display, phase, summary_table
from contrastive.runs.display import MONITORS

RUN = SimpleNamespace(
    name="simclr",
    folder="runs/simclr-seed0-01234567",
    epochs=4,
    steps=40,
    steps_per_epoch=10,
    ranking_metric="knn_top1",
    protocols={"knn": {"id": "knn/1"}},
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def train(display: Display, clock: Clock, seconds: float, steps: int = 40) -> None:
    """Report the steps of RUN, at ``seconds`` per step, with an evaluation after every epoch."""
    display.run_started(RUN)
    for step in range(1, steps + 1):
        clock.now += seconds
        metrics = {"step": step, "epoch": (step - 1) // 10 + 1, "loss": 5 - step / 40, "lr": 0.1}
        display.step_done(RUN, {**metrics, "images_per_second": 1234.5})
        if step % 10 == 0:
            display.evaluated(RUN, {"step": step, "epoch": step // 10, "knn_top1": 0.7 + step / 1000})
    display.run_ended(RUN)


def plain(seconds: float, steps: int = 40) -> list[str]:
    out, clock = io.StringIO(), Clock()
    train(Display(out, clock), clock, seconds, steps)
    return out.getvalue().splitlines()


def test_there_is_one_plain_line_per_epoch():
    start, *lines = plain(seconds=2)
    assert start == "simclr: 4 epochs, 40 steps, in runs/simclr-seed0-01234567"
    assert lines == [
        "epoch 1/4  step 10/40  loss 4.750  1,234 images/s  1 min 0 s left",
        "epoch 2/4  step 20/40  loss 4.500  1,234 images/s  40 s left  knn 71.0 %",
        "epoch 3/4  step 30/40  loss 4.250  1,234 images/s  20 s left  knn 72.0 %",
        "epoch 4/4  step 40/40  loss 4.000  1,234 images/s  0 s left  knn 73.0 %",
    ]


def test_plain_lines_are_at_least_ten_seconds_apart_but_for_the_last():
    assert [re.search(r"step (\d+)", line)[1] for line in plain(seconds=0.6)[1:]] == ["10", "30", "40"]
    assert [re.search(r"step (\d+)", line)[1] for line in plain(seconds=0.1)[1:]] == ["10", "40"]


def test_plain_output_has_no_control_characters_and_is_not_wrapped(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", "\n".join(plain(seconds=2)))
    assert len(plain(seconds=2)) == 5
    out = io.StringIO()
    Display(out).warn("a long warning that is wider than twenty columns [not markup]")
    assert out.getvalue() == "warning: a long warning that is wider than twenty columns [not markup]\n"


def terminal(monkeypatch, **environment: str) -> str:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out, clock = Terminal(), Clock()
    display = Display(out, clock)
    try:
        display.run_started(RUN)
        clock.now += 2
        display.step_done(RUN, {"step": 1, "epoch": 1, "loss": 4.5, "lr": 0.1, "images_per_second": 99})
        display.evaluated(RUN, {"step": 1, "epoch": 1, "knn_top1": 0.5})
        clock.now += 2
        display.step_done(RUN, {"step": 2, "epoch": 1, "loss": 4.25, "lr": 0.1, "images_per_second": 99})
        display.warn("watch out")
    finally:
        display.run_ended(RUN)
        display.run_ended(RUN)  # twice does no harm
    return out.getvalue()


def test_terminal_shows_a_live_line_and_removes_it(monkeypatch):
    out = terminal(monkeypatch)
    words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
    assert "epoch 1/4  step 2/40  loss 4.250  99 images/s  1 min 16 s left  knn 50.0 %" in words
    assert "warning: watch out" in words
    assert "\x1b[?25l" in out  # the cursor is hidden
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")  # and comes back


def test_a_narrow_terminal_breaks_the_live_line_between_facts(monkeypatch):
    out = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal(monkeypatch, COLUMNS="80"))
    first, second = "epoch 1/4  step 2/40  loss 4.250  99 images/s", "1 min 16 s left  knn 50.0 %"
    assert re.search(rf"━ {re.escape(first)} *\n {{25}}{re.escape(second)} *$", out, re.MULTILINE)


def test_no_color_is_honoured(monkeypatch):
    colour = re.compile(r"\x1b\[[0-9;]*3[0-8][0-9;]*m")
    assert colour.search(terminal(monkeypatch))
    assert not colour.search(terminal(monkeypatch, NO_COLOR="1"))


def test_a_resumed_run_estimates_from_its_own_steps():
    out, clock = io.StringIO(), Clock()
    display = Display(out, clock)
    display.run_started(RUN)
    for step in range(25, 31):
        clock.now += 3
        display.step_done(RUN, {"step": step, "epoch": 3, "loss": 1.0})
    assert out.getvalue().splitlines()[-1] == "epoch 3/4  step 30/40  loss 1.000  30 s left"


def test_the_time_left_includes_the_final_evaluation():
    out, clock = io.StringIO(), Clock()
    display = Display(out, clock)
    display.expect_evaluations(periodic=100, final=1000)
    display.run_started(RUN)
    for step in range(1, 41):
        clock.now += 2
        display.step_done(RUN, {"step": step, "epoch": (step - 1) // 10 + 1, "images_per_second": 5.0})
        if step % 10 == 0:
            display.epoch_done(RUN, step // 10)
            clock.now += 3 * (step // 10 == 1)
            display.evaluated(RUN, {"step": step})
    display.run_ended(RUN)
    times = [re.search(r"images/s  (.*) left", line)[1] for line in out.getvalue().splitlines()[1:]]
    assert times[0] == "1 min 33 s"  # 30 steps of 2 s, and 1,000 images six times faster than in training
    assert times[1:] == [
        "1 min 13 s",
        "21 s",
        "0 s",
    ]  # 3 s for 100 images: 30 s for 1,000; the second took none


def test_the_final_evaluation_takes_as_long_as_was_measured():
    out, clock = io.StringIO(), Clock()
    display = Display(out, clock)
    display.expect_evaluations(periodic=100, final=1000, seconds=7)
    display.run_started(RUN)
    for step in range(1, 41):
        clock.now += 2
        display.step_done(RUN, {"step": step, "epoch": (step - 1) // 10 + 1, "images_per_second": 5.0})
    display.run_ended(RUN)
    assert re.search(r"images/s  (.*) left", out.getvalue().splitlines()[-1])[1] == "7 s"


class Patience:
    """Waits until a thread has printed, at most ten seconds."""

    def __init__(self, out: io.StringIO):
        self.out = out

    def until(self, text: str) -> None:
        deadline = time.monotonic() + 10
        while text not in self.out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert text in self.out.getvalue()


def test_a_phase_that_takes_seconds_is_named_in_a_plain_line(monkeypatch):
    monkeypatch.setattr(phase, "LONGEST_PAUSE", 0.02)
    out = io.StringIO()
    shown = Patience(out)
    with Display(out) as display:
        display.phase("opening the data set")
        display.phase("building the model", delay=0.02)
        shown.until("building the model")
        time.sleep(0.1)
        display.phase("decoding 0 of 8,000 images", delay=0.02)
        shown.until("decoding 0")
        display.decoding(3000, 8000)
        shown.until("decoding 3,000 of 8,000 images")
        display.decoding(8000, 8000)
    time.sleep(0.1)
    lines = out.getvalue().splitlines()
    assert lines == ["building the model", "decoding 0 of 8,000 images", "decoding 3,000 of 8,000 images"]


def test_a_phase_that_a_signal_ends_is_not_named_after_it():
    out = io.StringIO()
    with Display(out) as display:
        display.phase("opening the data set", delay=0.05)
        display.log_now("stopped")
        time.sleep(0.2)
    assert out.getvalue() == "stopped\n"


def test_a_terminal_shows_the_phase_and_its_time(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    shown = Patience(out)
    with Display(out) as display:
        display.phase("opening the data set")
        shown.until("opening the data set  0 s")
        display.decoding(3000, 8000)
        shown.until("decoding 3,000 of 8,000 images  0 s")
        display.run_started(RUN)
        shown.until("first step  0 s")
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_the_cursor_comes_back_if_the_process_ends_at_once(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    with Display(out) as display:
        display.phase("opening the data set")
        display.leave_terminal()
        assert out.getvalue().rstrip("\n").endswith("\x1b[?25h")


SUMMARY = {
    "trained": {"knn_top1": 0.7612, "linear_top1": 0.86, "effective_rank": 33.0},
    "untrained": {"knn_top1": 0.64, "linear_top1": 0.79},
    "pixels": {"knn_top1": 0.7301, "linear_top1": 0.84},
    "split": "test",
    "wall_seconds": 161.2,
    "peak_memory_mib": 1234.5,
    "parameters": 700_000,
    "unreadable": {"a.jpg": "truncated", "b.png": "not an image"},
}


def rendered(summary) -> tuple[list[list[str]], str]:
    """The rows of the printed table as words, and the text around it on one line."""
    out = io.StringIO()
    Console(file=out, width=200).print(summary_table(summary))
    lines = out.getvalue().splitlines()
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines]
    around = [line.strip() for line in lines if not re.search("[━─│┃]", line)]
    return [row for row in rows if row], " ".join(around)


def test_summary_table_holds_metrics_gains_and_costs():
    rows, around = rendered(SUMMARY)
    assert ["metric", "trained", "untrained", "gain", "raw pixels", "gain"] in rows
    assert ["knn top1", "76.1 %", "64.0 %", "+12.1", "73.0 %", "+3.1"] in rows
    assert ["linear top1", "86.0 %", "79.0 %", "+7.0", "84.0 %", "+2.0"] in rows
    assert len(rows) == 3, "monitors are not shown"
    facts = "wall time 2 min 41 s, peak memory 1,234 MiB, 700,000 parameters, 2 unreadable images"
    assert around == f"metrics on test {facts}"


def test_summary_table_without_labels_or_pixels():
    rows, around = rendered(
        {"trained": {}, "untrained": {}, "pixels": {}, "unreadable": 3, "wall_seconds": 7322}
    )
    assert rows == []
    assert around == "the images have no labels, so no metrics wall time 2 h 2 min, 3 unreadable images"
    rows, _ = rendered({**SUMMARY, "pixels": {}, "untrained": {"knn_top1": 0.8}})
    assert ["metric", "trained", "untrained", "gain"] in rows
    assert ["knn top1", "76.1 %", "80.0 %", "-3.9"] in rows
    assert ["linear top1", "86.0 %", "-", ""] in rows


def test_an_encoder_that_started_from_weights_was_not_untrained():
    rows, _ = rendered({**SUMMARY, "starts_from_weights": True})
    assert ["metric", "trained", "before training", "gain", "raw pixels", "gain"] in rows


CLUSTERS = {"clusters": {"id": "clusters/1", "metric_units": {"ari": "number"}}}


def test_a_metric_is_shown_in_the_unit_that_its_protocol_declares():
    values = {"clusters_ari": -0.16, "clusters_purity": 0.4}
    floors = {"clusters_ari": 0.25, "clusters_purity": 0.5}
    rows, _ = rendered({"trained": values, "untrained": floors, "protocols": CLUSTERS})
    assert ["clusters ari", "-0.160", "0.250", "-0.410"] in rows
    assert ["clusters purity", "40.0 %", "50.0 %", "-10.0"] in rows


def test_a_gain_has_the_decimals_of_its_values_and_a_long_key_its_underscores():
    protocols = {"cluster_eval": {"id": "cluster_eval/1", "metric_units": {"ari": "number"}}}
    values, floors = {"cluster_eval_ari": 0.085}, {"cluster_eval_ari": 0.088}
    rows, _ = rendered({"trained": values, "untrained": floors, "protocols": protocols})
    assert ["cluster_eval_ari", "0.085", "0.088", "-0.003"] in rows


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (["a.png (empty file)"], "1 image (a.png (empty file)) could not be read and was left out"),
        (["a", "b"], "2 images (a, b) could not be read and were left out"),
    ],
)
def test_the_verb_agrees_with_the_number_of_unreadable_images(images, words):
    out = io.StringIO()
    Display(out).warn_of_unreadable(images, "left out")
    assert out.getvalue() == f"warning: {words}\n"


def test_the_live_line_shows_the_unit_too(monkeypatch):
    monkeypatch.setattr(RUN, "ranking_metric", "clusters_ari")
    monkeypatch.setattr(RUN, "protocols", CLUSTERS)
    out = io.StringIO()
    display = Display(out)
    display.run_started(RUN)
    display.evaluated(RUN, {"step": 39, "epoch": 4, "clusters_ari": -0.16})
    display.step_done(RUN, {"step": 40, "epoch": 4, "loss": 4.0})
    assert out.getvalue().splitlines()[-1].endswith("clusters ari -0.160")


def test_monitor_names_are_functions_of_monitors():
    assert all(callable(getattr(monitors, name)) for name in MONITORS)


def test_importing_the_display_leaves_torch_out():
    code = "import sys, contrastive.runs.display; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0
