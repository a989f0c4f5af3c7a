"""Pages: escaped, self-contained, and never half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ehrjax.viz import figures
from ehrjax.viz.page import Markup, Page, facts, figure, table

EVIL = "<script>alert(1)</script>"


def test_cells_are_escaped_unless_they_are_markup() -> None:
    made = table([EVIL, "b"], [[EVIL, Markup("<b>1</b>")]], strong=[0])
    assert "<script" not in made and made.count("&lt;script&gt;") == 2
    assert "<b>1</b>" in made and '<tr class="strong">' in made
    assert "<script" not in facts([(EVIL, EVIL)])


def test_the_library_is_there_once_and_only_where_it_is_needed() -> None:
    plain = Page(EVIL)
    plain.add(EVIL, "<p>text</p>")
    assert "<script" not in plain.render() and len(plain.render()) < 10_000
    drawn = Page("t")
    for _ in range(2):
        drawn.add("f", figure(figures.bars(["a"], [1.0], x="n")))
    page = drawn.render()
    assert page.count("plotly.js v") == 1 and page.count("plotly-graph-div") == 2
    assert 'src="http' not in page and "<link" not in page


def test_links_lead_to_sections() -> None:
    page = Page("t")
    page.add("one", "1")
    page.add("two", "2")
    text = page.render()
    for i in range(2):
        assert f'href="#s{i}"' in text and f'id="s{i}"' in text


def test_writing_leaves_the_page_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page("t")
    page.write(tmp_path / "deep" / "index.html")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["index.html"]
    monkeypatch.setattr(Page, "render", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page.write(tmp_path / "deep" / "index.html")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["index.html"]
    assert (tmp_path / "deep" / "index.html").read_text().startswith("<!DOCTYPE html>")


def test_no_text_of_a_figure_can_end_its_script() -> None:
    evil = "</script><script>alert(1)</script>"
    made = figure(figures.bars([evil], [1.0], x=evil))
    made += figure(figures.curves({evil: ([1], [1])}, x="x", y=evil))
    assert "alert(1)" in made, "the text itself is kept"
    assert "<script>alert" not in made and made.count("</script>") == made.count("<script")


def test_headings_and_title_are_escaped() -> None:
    page = Page(EVIL, lead="<p>lead</p>")
    page.add(EVIL, "<p>one</p>", "<p>two</p>")
    shown = page.render()
    assert shown.startswith("<!DOCTYPE html>") and "<p>lead</p>" in shown
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4  # title, h1, link and h2
    assert shown.index("<p>one</p>") < shown.index("<p>two</p>")


def test_cells_of_any_kind_are_text() -> None:
    assert "<td>3</td><td>None</td><td>a &amp; b</td>" in table(["a", "b", "c"], [[3, None, "a & b"]])
    assert "<td>a_<wbr>b</td><td>c_d</td>" in table([""] * 6, [["a_b", "c_d", 1, 2, 3, 4]])
    assert "<tbody></tbody>" in table(["a"], [])
