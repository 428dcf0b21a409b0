"""The page of performance, the benchmarks that fill it, and the comparison of two checkouts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import against
from benchmarks.__main__ import NAMES, TABLE, main, quote, row_from_json
from benchmarks.children import Contender
from benchmarks.harness import Case, MeasurementError, Row, environment, first_module, pair

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"

#: A benchmark of two cases, each the seconds that the checkout's own ``contrastive`` and plugin give.
FAKE = """\
from pathlib import Path

import contrastive
import contrastive_fake
from benchmarks.harness import Case

print("not an answer")


def cases():
    with Path("calls").open("a") as calls:
        def measure():
            print(contrastive.NAME, file=calls, flush=True)
            return contrastive.SECONDS
        yield Case("work", measure, repetitions=2)
        yield Case("images", lambda: contrastive_fake.SECONDS, work=8, unit="images/s")
"""


def checkout(path: Path, seconds: float, benchmark: str = FAKE) -> Path:
    """A tiny checkout that takes ``seconds``, twice as many in its plugin."""
    for name, content in {
        "contrastive/__init__.py": f"NAME, SECONDS = {path.name!r}, {seconds}\n",
        "plugins/contrastive-fake/contrastive_fake.py": f"SECONDS = 2 * {seconds}\n",
        "fake_benchmark.py": benchmark,
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_every_benchmark_has_its_place_on_the_page():
    marked = [match[2] for match in TABLE.finditer(PAGE.read_text())]
    assert sorted(marked) == sorted(NAMES)


def test_tables_are_quoted_between_their_markers(tmp_path):
    row = Row("a", "s", 1.0, "peer", 2.0, 2.0, 1.5, 2.5, target=1)
    content = {"environment": environment(), "rows": [{**asdict(row), "met": row.is_met}]}
    (tmp_path / "one.json").write_text(json.dumps(content))
    page = "<!-- table: one -->\nold\n<!-- /table -->\ntext\n<!-- table: two -->\nkept\n<!-- /table -->\n"
    filled = quote(page, tmp_path)
    assert "old" not in filled
    assert "| a | 1 s | peer | 2 s | 2.00 (1.50 to 2.50) | 1 | yes |" in filled
    assert "text\n<!-- table: two -->\nkept\n" in filled
    assert quote(filled, tmp_path) == filled


def test_a_table_that_was_kept_before_targets_had_that_name_is_quoted(tmp_path):
    row = asdict(Row("a", "s", 1.0, "peer", 2.0, 2.0, 1.5, 2.5, target=3))
    row["asked"] = row.pop("target")
    content = {"environment": environment(), "rows": [{**row, "met": False}]}
    (tmp_path / "one.json").write_text(json.dumps(content))
    assert "| 3 | no |" in quote("<!-- table: one -->\n<!-- /table -->\n", tmp_path)


def test_a_target_of_an_end_of_the_range_is_judged_there(tmp_path):
    row = Row("a", "s", 1.0, "peer", 2.0, 2.0, 1.5, 2.5, target=1.8)
    ends = ("ratio", "low", "high")
    assert [replace(row, criterion=end).is_met for end in ends] == [True, False, True]
    kept = {name: value for name, value in asdict(row).items() if name != "criterion"}
    assert row_from_json({**kept, "of_low": True, "met": False}) == replace(row, criterion="low")
    assert row_from_json({**kept, "of_low": False, "met": True}) == row


@pytest.mark.slow
def test_every_benchmark_lists_its_cases_without_peers_or_measures_no_time():
    """In a process that has no peer installed, as on a machine that only compares two checkouts."""
    code = """if True:
        import sys
        from importlib import import_module
        from benchmarks.__main__ import NAMES, WITHOUT_TIME
        for peer in ("lightly", "kornia", "pytorch_metric_learning"):
            sys.modules[peer] = None
        assert set(WITHOUT_TIME) < set(NAMES)
        for name in NAMES:
            assert hasattr(import_module(f"benchmarks.{name}"), "cases") is (name not in WITHOUT_TIME), name
    """
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_pair_takes_turns_and_its_ratio_is_the_median_within_repetitions():
    order: list[str] = []
    seconds = {"ours": iter([9.0, 1.0, 2.0, 4.0]), "theirs": iter([9.0, 2.0, 2.0, 2.0])}

    def measure(side: str) -> float:
        order.append(side)
        return next(seconds[side])

    case = Case("a", lambda: measure("ours"), work=8, unit="images/s", repetitions=3)
    row = pair(case, lambda: measure("theirs"), peer="before")
    assert order == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert (row.ours, row.theirs) == (4.0, 4.0)
    assert (row.ratio, row.low, row.high) == (1.0, 0.5, 2.0)


def test_a_child_and_its_workers_stand_still_while_it_is_not_their_turn(tmp_path):
    file = tmp_path / "file"
    with Contender("tests.support.contenders:busy", str(file)) as side:
        side.measure()
        time.sleep(0.1)
        size = file.stat().st_size
        time.sleep(0.3)
        assert file.stat().st_size == size
        while side.measure() <= size:
            pass
    size = file.stat().st_size
    time.sleep(0.3)
    assert file.stat().st_size == size, "a worker has outlived its comparison"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "^tests.support.contenders:broken cannot run: ValueError: no such peer$"),
        ("dead", "^the process that runs tests.support.contenders:dead has exited with code 7$"),
    ],
)
def test_a_side_that_cannot_measure_is_named(name, message):
    with (
        Contender(f"tests.support.contenders:{name}") as side,
        pytest.raises(MeasurementError, match=message),
    ):
        side.measure()


def test_two_checkouts_are_each_measured_with_their_own_code_in_turn(tmp_path, scratch):
    ours, other = checkout(tmp_path / "ours", 2.0), checkout(tmp_path / "before", 3.0)
    work, images = against.rows("fake_benchmark", ours, other, scratch)
    assert (work.what, work.unit, work.ours, work.peer, work.theirs) == ("work", "s", 2.0, "before", 3.0)
    assert (work.ratio, work.low, work.high) == (1.5, 1.5, 1.5)
    assert (images.ours, images.theirs, images.ratio) == (8 / 4.0, 8 / 6.0, 1.5)
    turns = (scratch / "calls").read_text().split()
    assert turns == ["ours", "before", "ours", "before", "before", "ours"]
    assert not [path for side in (ours, other) for path in side.rglob("__pycache__")]


def test_a_checkout_whose_code_would_come_from_elsewhere_is_refused(tmp_path, scratch):
    ours, other = checkout(tmp_path / "ours", 2.0), checkout(tmp_path / "before", 3.0)
    (other / "sitecustomize.py").write_text(f"import sys; sys.path.insert(0, {str(ours)!r})\n")
    with pytest.raises(MeasurementError, match=rf"^contrastive would be imported from {ours}/.*{other}$"):
        list(against.rows("fake_benchmark", ours, other, scratch))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("import contrastive_fake", "import contrastive_absent"), "ModuleNotFoundError: No module named"),
        (("return contrastive.SECONDS", "raise SystemExit(7)"), "has exited with code 7$"),
        (('"images"', '"other images"'), "does not time the same cases in"),
    ],
)
def test_a_checkout_that_cannot_run_a_benchmark_is_named(tmp_path, scratch, change, message):
    ours, other = checkout(tmp_path / "ours", 2.0), checkout(tmp_path / "before", 3.0, FAKE.replace(*change))
    with pytest.raises(MeasurementError, match=message) as failure:
        list(against.rows("fake_benchmark", ours, other, scratch))
    assert str(other) in str(failure.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["startup", "--against", "{empty}"], "is not a checkout of this project: it has no contrastive/"),
        (
            ["fidelity", "--against", str(ROOT)],
            "fidelity measures accuracy, not time, and --against",
        ),
        (["losses_large", "--against", str(ROOT)], "losses_large measures memory, not time"),
        (["speed", "--against", str(ROOT)], "no benchmark speed; there are augmentation, "),
    ],
)
def test_what_cannot_be_compared_is_refused_with_one_sentence(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        main([argument.format(empty=tmp_path) for argument in arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_table_against_a_checkout_is_printed_and_kept_apart(tmp_path, capsys, monkeypatch):
    ours, other = checkout(tmp_path / "ours", 2.0), checkout(tmp_path / "before", 3.0)
    measure_rows = against.rows
    monkeypatch.setattr(
        against, "rows", lambda module, root, *rest: measure_rows("fake_benchmark", ours, *rest)
    )
    main(["startup", "--against", str(other), "--out", str(tmp_path / "out")])
    table = "| work | 2 s | before | 3 s | 1.50 (1.50 to 1.50) |  |  |"
    assert "## startup against before\n\n| what | ours | against |" in (printed := capsys.readouterr().out)
    assert table in printed
    assert table in (tmp_path / "out/startup-against.md").read_text()
    content = json.loads((tmp_path / "out/startup-against.json").read_text())
    assert content["against"] == {"path": str(other), "commit": None}
    assert content["environment"]["commit"]
    assert content["rows"][0]["ratio"] == 1.5


def test_a_module_is_found_where_it_is_and_its_own_errors_show():
    assert first_module("json.absent.module", "json.decoder").__name__ == "json.decoder"
    with pytest.raises(ModuleNotFoundError, match="absent"):
        first_module("json.absent", "absent")
