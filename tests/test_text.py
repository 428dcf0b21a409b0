"""Numbers, lists and options as people and shells read them."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from contrastive.text import (
    MetricFormat,
    abbreviate,
    byte_count,
    count_and_names,
    duration,
    metric_words,
    percent,
    quantity,
    set_to_text,
)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.6, "1 min 0 s"), (3600, "1 h 0 min"), (-1, "0 s")]
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_percent():
    assert percent(0.71249) == "71.2 %"


PROTOCOLS = {
    "knn": {"metric_units": {"z_ari": "number"}},
    "knn_z": {"metric_units": {"nmi": "number", "top1": "fraction"}},
    "linear": {},
}


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("knn_top1", "fraction"),
        ("knn_z_nmi", "number"),
        ("knn_z_ari", "fraction"),  # of knn_z, which does not declare it
        ("linear_top1", "fraction"),
        ("other_top1", "fraction"),
    ],
)
def test_the_unit_of_a_metric_is_that_of_the_protocol_with_the_longest_key(metric, unit):
    assert MetricFormat.of(metric, PROTOCOLS).unit == unit
    assert MetricFormat.of(metric, None).unit == "fraction"


@pytest.mark.parametrize(
    ("value", "words", "change"),
    [
        (-0.16, "-0.160", "-0.160"),
        (0.0, "0.000", "+0.000"),
        (12.5, "12.500", "+12.500"),
        (1234.5, "1,234.500", "+1,234.500"),
        (0.00123, "0.00123", "+0.00123"),
        (2.5e9, "2.5e+09", "+2.5e+09"),
    ],
)
def test_a_number_is_shown_as_it_is_and_a_fraction_in_percent(value, words, change):
    number, fraction = MetricFormat("number"), MetricFormat("fraction")
    assert (number.value(value), number.change(value)) == (words, change)
    assert fraction.value(value) == percent(value)
    assert (fraction.change(0.031), fraction.margin(0.031)) == ("+3.1", "3.1")


def test_a_change_has_the_decimals_of_the_values_next_to_it():
    number = MetricFormat("number")
    assert [number.value(0.085), number.value(0.088), number.change(-0.00315, 0.088)] == [
        "0.085", "0.088", "-0.003",
    ]  # fmt: skip
    assert number.change(1e-5, 2e-4) == "+1e-05"
    assert MetricFormat("fraction").change(-0.0015, 0.7) == "-0.1"


@pytest.mark.parametrize(
    ("key", "words"),
    [("knn_top1", "knn top1"), ("knn_z_top1", "knn_z_top1"), ("cluster_eval_ari", "cluster_eval_ari")],
)
def test_a_key_with_several_underscores_is_shown_as_json_has_it(key, words):
    assert metric_words(key) == words


def test_a_quantity_agrees_with_its_number():
    assert [quantity(n, "step") for n in (0, 1, 1234)] == ["0 steps", "1 step", "1,234 steps"]


def test_a_list_is_shortened_to_five():
    assert abbreviate("abcde") == "a, b, c, d, e"
    assert abbreviate("abcdef", "; ") == "a; b; c; d; e; ..."
    assert count_and_names("abcdef", "file") == "6 files (a, b, c, d, e, ...)"
    assert count_and_names(["a"], "file") == "1 file (a)"


def test_bytes_are_in_the_unit_that_fits():
    assert byte_count(3 * 2**19) == "1.5 MiB"
    assert byte_count(5 * 2**29) == "2.5 GiB"


@pytest.mark.parametrize(
    "text", ["runs/my run", "it's", '"a" b', "$HOME and `x`", "wow!", "a\\b", "x # y", "- {a: 1}", "", "über"]
)
def test_an_option_reaches_yaml_through_a_shell_as_the_text(text):
    script = f"printf '%s\\n' {set_to_text('dataset.root', text)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    option, assignment = done.stdout.splitlines()
    path, _, value = assignment.partition("=")
    assert (option, path, yaml.safe_load(value)) == ("--set", "dataset.root", text)


def test_an_option_is_in_double_quotes_if_they_suffice():
    assert set_to_text("dataset.root", "a #1") == "--set \"dataset.root='a #1'\""
