"""The cases of scripts/try_inputs.py: enough of them per fault, and every input can be made."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import try_inputs  # noqa: E402
from inputs.case import FAULTS, Attempt, Call, Case, Outcome, Verdict, reads, refuses  # noqa: E402
from inputs.registry import CASES  # noqa: E402

ATTEMPTS = list({id(case.attempt): case for case in CASES}.values())


def test_at_least_eight_inputs_per_fault_with_names_of_their_own():
    counts = Counter(case.fault for case in CASES)
    assert counts.keys() == FAULTS.keys()
    assert min(counts.values()) >= 8
    assert len({case.key for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", ATTEMPTS, ids=lambda case: case.key)
def test_every_input_is_made_with_its_recipe(case: Case, tmp_path):
    case.attempt.build(tmp_path)
    assert (tmp_path / "r.yaml").is_file()
    assert len(list(tmp_path.rglob("*"))) > 1 or "fashion_mnist_sample" in (tmp_path / "r.yaml").read_text()


@pytest.mark.slow
def test_no_two_inputs_are_equal(tmp_path):
    """Within a fault: files, recipes or commands differ."""
    prints = {}
    for number, case in enumerate(ATTEMPTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        case.attempt.build(folder)
        files = tuple(
            (str(path.relative_to(folder)), path.read_bytes())
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "state.json"  # has a random fingerprint
        )
        steps = tuple(step if not callable(step) else id(step) for step in case.attempt.steps)
        twin = prints.setdefault(hash((case.fault, files, steps)), case.key)
        assert twin == case.key


def test_verdicts_are_kept_and_written_into_the_page(tmp_path, monkeypatch):
    cases = [
        Case("1a", "right", Attempt(lambda _: None, (("check",),)), reads(train=3)),
        Case("1a", "wrong", Attempt(lambda _: None, (("check",),)), refuses("train")),
        Case("1b", "crash", Attempt(lambda _: None, (("check",),)), lambda _: Verdict(True, "")),
    ]
    output = '{"recipes": [{"images": {"train": 3, "test": null}}]}'

    class FakeEnvironment:
        file = "contrastive/__init__.py"

        def call(self, command, folder, variables):
            assert folder.is_dir()
            return Call(command, 0, output, "")

    report = try_inputs.Report(tmp_path / "report.json", FakeEnvironment())
    for case, verdict in try_inputs.try_cases(cases, FakeEnvironment(), 2):
        report.add(case, verdict)
    again = try_inputs.Report(tmp_path / "report.json")
    assert {key: verdict.right for key, verdict in again.verdicts.items()} == {
        "1a right": True,
        "1a wrong": False,
        "1b crash": True,
    }
    crash = Outcome(tmp_path, [Call((), 1, "", "Traceback")])
    assert not try_inputs.verdict_of(cases[2], crash).right

    monkeypatch.setattr(try_inputs, "CASES", cases)
    page = "<!-- inputs -->\n| 1a: x | 2 | 0 | |\n| 1b: y | 1 | 1 | |\n<!-- /inputs -->\n"
    rows = try_inputs.table(page, "now", again).splitlines()
    assert rows[2] == f"| 1a: {FAULTS['1a']} | 2 | 0 | 1 |"
    assert rows[-1] == "| all | 3 | 1 | 2 |"
