"""The frame of a page."""

from __future__ import annotations

from contrastive.pages import Section, frame, text_list


def test_code_in_sentences_is_code_and_all_else_is_text():
    section = Section("a", "A", "body", "run `contrastive duplicates` <now>")
    page = frame("t", "", [section], lead=text_list(["a ` b", "`x` <b>"]))
    assert "run <code>contrastive duplicates</code> &lt;now&gt;" in page
    assert "<li>a ` b</li><li><code>x</code> &lt;b&gt;</li>" in page
