"""What is read of finished run folders, and how often."""

from __future__ import annotations

from collections import Counter

from contrastive.commands.compare import records
from contrastive.commands.compare.records import read_record
from contrastive.training import MetricsFile
from tests.support.comparisons import BASE, BETTER, compared
from tests.support.fake_runs import write_run, write_runs


def test_each_file_of_a_finished_run_is_read_once(runs, capsys, monkeypatch):
    reads: Counter[str] = Counter()
    read_map, read_metrics = records.read_map, MetricsFile.read

    def count_map(path):
        reads[str(path)] += 1
        return read_map(path)

    def count_metrics(file):
        reads[str(file.path)] += 1
        return read_metrics(file)

    monkeypatch.setattr("contrastive.commands.compare.records.read_map", count_map)
    monkeypatch.setattr(MetricsFile, "read", count_metrics)
    folders = write_runs(runs, "base", BASE) + write_runs(runs, "better", BETTER)
    compared(capsys, *folders)
    files = ("summary.json", "environment.json", "metrics.jsonl")
    assert reads == {f"{folder}/{name}": 1 for folder in folders for name in files}


def test_costs_are_those_of_the_summary_and_the_median_speed(runs):
    record = read_record(write_run(runs, "a", 1, 0.8, summary={"backbone_flops": None}))
    assert record.costs == {
        "images_per_second": 100,  # of 50, 100 and 110
        "wall_seconds": 61,
        "peak_memory_mib": 800,
        "parameters": 1000,
        "backbone_parameters": 900,
        "backbone_flops": None,
    }
