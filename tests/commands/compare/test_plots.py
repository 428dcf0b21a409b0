"""The plots of the report: what each shows, and which comparisons have it."""

from __future__ import annotations

import pytest

from contrastive.commands.compare.plots import charts, mean_curve, pareto_front


def test_a_grid_of_two_axes_is_a_heat_map(comparison):
    rows = [
        {**comparison["recipes"][0], "name": f"{x}{y}", "labels": {"first": x, "second": y}}
        for x in ("crop", "blur")
        for y in ("crop", "blur")
        if (x, y) != ("blur", "blur")
    ]
    drawn = charts({**comparison, "recipes": rows}, [])
    (heat, _) = (c["figure"]["data"][0] for c in drawn if c["figure"]["data"][0]["type"] == "heatmap")
    assert (heat["y"], heat["x"]) == (["crop", "blur"], ["crop", "blur"])
    assert heat["z"][1] == [pytest.approx(81), None]


def test_two_grids_of_the_same_axes_are_no_heat_map(comparison):
    rows = [
        {**comparison["recipes"][0], "name": name, "labels": {"first": "crop", "second": "blur"}}
        for name in ("a", "b")
    ]
    drawn = charts({**comparison, "recipes": rows}, [])
    assert not [c for c in drawn if c["figure"]["data"][0]["type"] == "heatmap"]


def test_accuracy_against_compute_is_that_of_h(comparison):
    figures = {"linear_z_top1": {**comparison["recipes"][0]["figures"]["linear_top1"], "to_h": None}}
    rows = [{**row, "figures": {**row["figures"], **figures}} for row in comparison["recipes"]]
    keys = [*comparison["figures"], "linear_z_top1"]
    drawn = charts(
        {**comparison, "recipes": rows, "figures": keys, "features": [["linear_top1", "linear_z_top1"]]}, []
    )
    titles = [chart["title"] for chart in drawn if chart["section"] == "compute"]
    assert titles == ["linear top1 against wall time of a run"]


def test_the_plane_pairs_what_was_measured_at_one_epoch(comparison):
    curves = {"0": {"alignment": [[1, 0.6], [2, 0.5]], "uniformity": [[2, -2.0]]}}
    rows = [{**row, "curves": curves} for row in comparison["recipes"]]
    (plane,) = (c for c in charts({**comparison, "recipes": rows}, []) if c["title"].startswith("alignment"))
    line = plane["figure"]["data"][0]
    assert (line["x"], line["y"], line["customdata"]) == ([-2.0], [0.5], [2])


def test_mean_curve_is_the_mean_of_the_seeds_at_each_epoch():
    assert mean_curve([[(1, 2.0), (2, 4.0)], [(1, 4.0)]]) == [(1, 3.0), (2, 4.0)]


def test_pareto_front_by_its_definition():
    points = [(1, 5), (2, 4), (3, 7), (3, 6), (4, 7), (5, 9)]
    beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] >= p[1]}
    assert pareto_front(points) == [p for p in points if p not in beaten]
