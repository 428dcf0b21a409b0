"""Galleries and tables: names cannot break out, and what is not there leaves no box."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from contrastive.pages import (
    Cell,
    CellTable,
    Column,
    FoldedList,
    Group,
    MapPoints,
    Picture,
    Section,
    Sprite,
    feature_map,
    frame,
    gallery,
    gallery_page,
    is_page,
    script_data,
    sortable_table,
    text_list,
)

EVIL = '</script><b>&"x'


def sprite() -> Sprite:
    sheet = Sprite("pictures", 24, 48)
    sheet.add(Image.new("RGB", (24, 24), (9, 99, 199)))
    return sheet


def test_names_and_captions_are_escaped_everywhere():
    sheet = sprite()
    points = MapPoints(np.zeros((1, 2)), [EVIL], [EVIL], [0], [0])
    table = sortable_table(CellTable("", [Column(EVIL)], [[Cell(EVIL, EVIL)]]))
    body = gallery([Group([Picture(0, EVIL, [EVIL], "same")], EVIL)], sheet)
    body += table + feature_map("m", EVIL, EVIL, points, sheet)
    page = frame(EVIL, EVIL, [Section("one", EVIL, body, EVIL)], has_contents=True)
    assert "<b>" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert '&"x' not in page.replace(r"\u003c/script>\u003cb>&\"x", "")


def test_thumbnails_have_an_outline_in_light_dark_and_print():
    style = frame("t", "f", [])
    assert re.search(r"\.thumbnail \{[^}]*outline: 1px solid var\(--edge\)", style)
    assert len(re.findall(r"--edge: #", style)) == style.count(":root {") == 3


def test_sections_without_a_body_are_left_out_with_their_links():
    page = frame(
        "t", "f", [Section("empty", "Empty", ""), Section("full", "Full", "<p>x</p>")], has_contents=True
    )
    assert re.findall("<h2>(.*?)</h2>", page) == ["Full"]
    assert re.findall('href="#(.*?)"', page) == ["full"]


def test_a_picture_says_what_it_is_and_where_in_the_sprite():
    sheet = sprite()
    html = gallery([Group([Picture(0, "cat.jpg", ["0.93"], "other")])], sheet)
    assert 'class="thumbnail pictures other" role="img" aria-label="cat.jpg\n0.93"' in html
    assert 'style="--x:0;--y:0;--w:24;--h:24"' in html
    assert "<small>0.93</small>" in html
    assert "figcaption" not in html
    assert 'class="gallery wall"' in html
    few, many = Group([Picture(0, "a")] * 3), Group([Picture(0, "a")] * 4)
    assert 'class="gallery narrow"' in gallery([few, few], sheet)
    assert 'class="gallery"' in gallery([few, many], sheet)
    assert 'class="gallery wall"' in gallery([few, many], sheet, in_lines=True)


def test_a_short_name_is_one_line_and_no_tooltip_repeats_a_split():
    picture = Picture(0, "train: a/cat.jpg", ["train", "0.93"], short_name="cat.jpg")
    html = gallery([Group([picture])], sprite())
    assert 'title="train: a/cat.jpg\n0.93"' in html
    assert re.findall("<small.*?</small>", html) == [
        "<small>train</small>", "<small>0.93</small>", '<small class="name">cat<i>.jpg</i></small>',
    ]  # fmt: skip
    assert re.search(r"small\.name \{[^}]*white-space: nowrap", frame("t", "f", []))


def test_a_folded_list_is_closed_and_escaped():
    html = text_list(["one", FoldedList("2 `files`:", [EVIL, "b"])], "notes")
    assert "<li>one</li><li><details><summary>2 <code>files</code>:</summary><ul>" in html
    assert html.count("<li>") == 4
    assert "<b>" not in html


def test_a_page_of_galleries_holds_each_sprite_once_and_is_known_again(tmp_path):
    sheet = sprite()
    body = gallery([Group([Picture(0, "a")])], sheet)
    page = gallery_page("t", "f", [(Section("a", "A", body), sheet), (Section("b", "B", body), sheet)])
    assert page.count("data:image/webp") == 1
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "other.html").write_text("<html>mine</html>")
    assert is_page(tmp_path / "page.html")
    assert not is_page(tmp_path / "other.html")


def test_names_of_any_bytes_can_be_written():
    page = frame("t", "f", [Section("a", "A", "<p>caf\udce9.png</p>")])
    assert "caf\\udce9.png" in page
    page.encode()


def test_script_data_cannot_end_its_element():
    assert "</" not in script_data("x", ["</script>", "<!--"]).removesuffix("</script>")


def test_rows_of_a_table_sort_by_values_and_show_texts():
    table = CellTable(
        "", [Column("a"), Column("b")], [[Cell("x", "x"), Cell("5 %", 0.05)], [Cell("y"), Cell("-")]]
    )
    html = sortable_table(table)
    assert '<td data-value="0.05">5 %</td>' in html
    assert '<td data-value=""><span class="absent">-</span></td>' in html
