"""Curves: ticks at whole numbers, points where their values are."""

from __future__ import annotations

import re

import pytest

from contrastive.pages import Extent, Line, chart, whole_step


@pytest.mark.parametrize(
    ("span", "step"), [(0, 1), (1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (49, 5), (99, 10), (1000, 100)]
)
def test_steps_between_epochs_are_whole(span, step):
    assert whole_step(span) == step


def ticks(html: str) -> list[str]:
    return re.findall(r'text-anchor="middle">([^<]*)<', html)


def test_the_ticks_of_epochs_are_whole_numbers_within_the_curve():
    html = chart("loss", "", [Line("loss", [(1, 2.0), (2, 1.5), (3, 1.0)])], "epoch")
    assert ticks(html) == ["1", "2", "3", "epoch"]
    assert ticks(chart("l", "", [Line("l", [(x, x) for x in range(1, 101)])], "epoch")) == [
        "20", "40", "60", "80", "100", "epoch",
    ]  # fmt: skip


def test_a_single_point_and_a_constant_curve_are_drawn():
    for points in ([(3, 0.5)], [(1, 0.0), (2, 0.0)], [(1, -7.0), (9, -7.0)]):
        html = chart("x", "", [Line("x", points)], "epoch")
        assert html.count("<circle") == len(points)
        places = [float(y) for y in re.findall(r'cy="([\d.-]+)"', html)]
        assert all(0 <= y <= 240 for y in places)


def upright_ticks(html: str) -> list[float]:
    return [float(text) for text in re.findall(r'text-anchor="end">([^<]*)<', html)]


def test_an_axis_has_a_least_span_within_its_bounds():
    extent = Extent(least_span=10, floor=0, ceiling=100)
    assert extent.of([31.5, 33.0]) == (27.25, 37.25)
    assert extent.of([1.0, 2.0]) == (0, 10)
    assert extent.of([98.0, 100.0]) == (90, 100)
    assert extent.of([20.0, 50.0]) == (20, 50)
    line = Line("recall", [(1, 31.5), (2, 33.0)])
    assert upright_ticks(chart("x", "", [line], "epoch"))[-1] <= 33.5
    ticks = upright_ticks(chart("x", "", [line], "epoch", extent))
    assert (ticks[0], ticks[-1]) == (26, 38)


def test_higher_values_are_higher_in_the_picture_and_tell_themselves():
    html = chart("x", "of x", [Line("a <b>", [(1, 1.0), (2, 3.0)]), Line("c", [(1, 2.0)])], "epoch")
    low, high, middle = (float(y) for y in re.findall(r'cy="([\d.-]+)"', html))
    assert high < middle < low
    assert "<title>a &lt;b&gt;: 3 at 2</title>" in html
    assert html.count("<li>") == 2
    assert "<figcaption>of x</figcaption>" in html
    assert "<li>" not in chart("x", "", [Line("a", [(1, 1.0)])], "epoch")
