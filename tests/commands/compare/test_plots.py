"""The plots of the report: what each shows, and which comparisons have it."""

from __future__ import annotations

import math

import pytest

from contrastive.commands.compare.plots import CostPoint, charts, mean_curve, pareto_front


def test_a_grid_of_two_axes_is_a_heat_map(comparison):
    rows = [
        {**comparison["recipes"][0], "name": f"{x}{y}", "labels": {"first": x, "second": y}}
        for x in ("crop", "blur")
        for y in ("crop", "blur")
        if (x, y) != ("blur", "blur")
    ]
    drawn = charts({**comparison, "recipes": rows})
    (heat, _) = (c["figure"]["data"][0] for c in drawn if c["figure"]["data"][0]["type"] == "heatmap")
    assert (heat["y"], heat["x"]) == (["crop", "blur"], ["crop", "blur"])
    assert heat["z"][1] == [pytest.approx(81), None]


def test_two_grids_of_the_same_axes_are_no_heat_map(comparison):
    rows = [
        {**comparison["recipes"][0], "name": name, "labels": {"first": "crop", "second": "blur"}}
        for name in ("a", "b")
    ]
    drawn = charts({**comparison, "recipes": rows})
    assert not [c for c in drawn if c["figure"]["data"][0]["type"] == "heatmap"]


def test_accuracy_against_compute_is_that_of_h(comparison):
    figures = {"linear_z_top1": {**comparison["recipes"][0]["figures"]["linear_top1"], "to_h": None}}
    rows = [{**row, "figures": {**row["figures"], **figures}} for row in comparison["recipes"]]
    keys = [*comparison["figures"], "linear_z_top1"]
    drawn = charts(
        {**comparison, "recipes": rows, "figures": keys, "features": [["linear_top1", "linear_z_top1"]]}
    )
    titles = [chart["title"] for chart in drawn if chart["section"] == "compute"]
    assert titles == ["linear top1 against wall time of a run"]


def test_the_plane_pairs_what_was_measured_at_one_epoch(comparison):
    curves = {"0": {"alignment": [[1, 0.6], [2, 0.5]], "uniformity": [[2, -2.0]]}}
    rows = [{**row, "curves": curves} for row in comparison["recipes"]]
    (plane,) = (c for c in charts({**comparison, "recipes": rows}) if c["title"].startswith("alignment"))
    line = plane["figure"]["data"][0]
    assert (line["x"], line["y"], line["customdata"]) == ([-2.0], [0.5], [2])


def test_mean_curve_is_the_mean_of_the_seeds_at_each_epoch():
    assert mean_curve([[(1, 2.0), (2, 4.0)], [(1, 4.0)]]) == [(1, 3.0), (2, 4.0)]


def test_pareto_front_without_intervals_by_its_definition():
    points = [CostPoint(x, y, 0.0) for x, y in [(1, 5), (2, 4), (3, 7), (3, 6), (4, 7), (5, 9)]]
    beaten = [p for p in points for q in points if q != p and q.cost <= p.cost and q.gain >= p.gain]
    assert pareto_front(points) == [p for p in points if p not in beaten]


def test_a_gain_within_the_intervals_is_not_on_the_front():
    cheap, within, above = CostPoint(1, 80, 1.0), CostPoint(2, 81.5, 1.0), CostPoint(3, 82.5, 1.0)
    assert pareto_front([above, within, cheap]) == [cheap, above]
    single = CostPoint(4, 99, math.inf)
    assert pareto_front([cheap, above, single]) == [cheap, above]
    assert pareto_front([CostPoint(1, 1, math.inf), above]) == [CostPoint(1, 1, math.inf)]


def compute(comparison: dict) -> dict:
    return next(chart for chart in charts(comparison) if chart["section"] == "compute")


def test_a_front_of_one_has_no_line_and_the_caption_says_why(comparison):
    chart = compute(comparison)  # the second recipe is worse and not cheaper
    assert [line["mode"] for line in chart["figure"]["data"]] == ["markers", "markers"]
    assert "No dearer one is shown to be better" in chart["caption"]
    first, second = comparison["recipes"]
    costs = {**first["costs"], "wall_seconds": first["costs"]["wall_seconds"] + 9}
    chart = compute({**comparison, "recipes": [second, {**first, "costs": costs}]})
    assert [line["mode"] for line in chart["figure"]["data"]] == ["lines", "markers", "markers"]
    assert "wholly above" in chart["caption"]


def test_an_encoder_from_elsewhere_is_a_point_without_an_interval(comparison):
    first, second = comparison["recipes"]
    costs = {**first["costs"], "wall_seconds": first["costs"]["wall_seconds"] + 9}
    figures = {key: {**figure, "interval": None} for key, figure in first["figures"].items()}
    fixed = {**first, "costs": costs, "figures": figures, "stock": {}}
    assert compute({**comparison, "recipes": [second, fixed]})["figure"]["data"][0]["mode"] == "lines"
    seed = {**first, "costs": costs, "figures": figures}
    assert compute({**comparison, "recipes": [second, seed]})["figure"]["data"][0]["mode"] == "markers"


def test_epochs_have_whole_ticks(comparison):
    for chart in charts(comparison):
        axis = chart["figure"]["layout"]["xaxis"]
        if axis["title"]["text"] == "epoch":
            assert (axis["tick0"], axis["dtick"]) == (0, 1)
