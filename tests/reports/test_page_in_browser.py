"""Test the page in Chromium: views, sorting, filters, keyboard, contrast."""

import os
import re

import pytest
from browser import Browser, program
from factories import many_records
from page_study import HOSTILE, page_study, publish

from bench import report


@pytest.fixture(scope="module")
def browser():
    if not program():
        assert os.environ.get("REQUIRE_CHROMIUM") != "1", "REQUIRE_CHROMIUM is 1, and there is no chromium"
        pytest.skip("no chromium here: apt-get install chromium")
    one = Browser()
    yield one
    one.close()


PLACES = (
    "#leaderboards",
    "#scaling",
    "#tables",
    "#tables/dit-figure5",
    "#samples",
    "RUN",
    "FAILED",
    "#run/none",
    "#%E0%A4%A",
)


def where(place):
    records = page_study()
    return {"RUN": f"#run/{records[1].id}", "FAILED": f"#run/{records[-2].id}"}.get(place, place)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("place", PLACES)
def test_views_fit_screen_without_error_or_request(browser, page, place, width, dark):
    browser.open(page, width=width, dark=dark, where=where(place))
    browser.js("new Promise((done) => setTimeout(done, 30))")
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("document.querySelectorAll('h1').length") == 1
    assert browser.js("document.title").endswith("backbone bench")


NAMES = "main section:not([hidden]) table.board tbody th"


def labels(browser, board=None):
    """Return the models of one leaderboard, or of all visible ones, from top to bottom."""
    among = NAMES if board is None else f"section:nth-of-type({board + 1}) table.board tbody th"
    return browser.js(f"[...document.querySelectorAll({among!r})].map((e) => e.textContent)")


def choose(browser, title, value):
    label = f"[...document.querySelectorAll('.controls label')].find((l) => l.textContent.startsWith({title!r}))"
    change = "e.dispatchEvent(new Event('change'))"
    browser.js(f"{{ const e = {label}.querySelector('select'); e.value = {value!r}; {change}; }}")


def test_names_are_not_markup(browser, page):
    browser.open(page)
    assert HOSTILE in labels(browser)
    assert browser.js("document.querySelectorAll('main img').length") == 0


def test_header_sorts_by_keyboard(browser, page):
    browser.open(page)
    board = next(i for i in range(2) if len(labels(browser, i)) == 5)
    heads = f"[...document.querySelectorAll('table.board')[{board}].querySelectorAll('thead th')]"
    head = f"{heads}.find((e) => e.textContent === 'MACs')"
    models = ["dit", "uvit", "unet", "held-out", "noise"]
    browser.js(f"{head}.querySelector('button').focus()")
    browser.press("Enter")
    assert browser.js(f"{head}.getAttribute('aria-sort')") == "ascending"
    assert labels(browser, board) == models
    browser.press("Enter")
    assert browser.js(f"{head}.getAttribute('aria-sort')") == "descending"
    assert labels(browser, board) == [*models[2::-1], *models[3:]], "rows without a value come last"


def test_filters_show_and_count_matching_rows(browser, page):
    browser.open(page)
    choose(browser, "architecture", "uvit")
    choose(browser, "budget", "120000")
    assert labels(browser) == ["uvit", "held-out", "noise"]
    assert browser.js("document.querySelector('#status').textContent").startswith("Rows shown: 1 of 7")
    browser.js("document.querySelector('.check input').click()")
    assert [x for x in labels(browser) if x.startswith("uvit")] == [f"uvit, seed {s}" for s in range(3)]


def test_skip_link_leads_to_content(browser, page):
    browser.open(page)
    browser.press("Tab")
    assert browser.js("document.activeElement.className") == "skip"
    assert browser.js("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Enter")
    assert browser.js("document.activeElement.id") == "main"
    assert browser.js("location.hash") == ""


def test_run_view_draws_curves_and_lists_values(browser, page):
    browser.open(page, where=where("RUN"))
    lines = browser.js(
        "[...document.querySelectorAll('.sparks figure')].map((f) => [f.querySelector('h3').textContent, "
        "f.querySelector('polyline').getAttribute('points'), f.querySelector('figcaption').textContent])"
    )
    assert [title for title, *_ in lines][:2] == ["Training loss ↓", "fid[digits-cnn] ↓"] and len(lines) == 6
    assert lines[1][1] == "3.0,3.0 150.0,49.7 297.0,77.0", "logarithmic: 3.3, 1.65 and 1.1"
    assert lines[1][2] == "3.3 after 20,000 images, 1.1 after 60,000."
    rows = "[...document.querySelectorAll('.sparks + .scroll tbody tr')]"
    cells = browser.js(f"{rows}.map((r) => [r.cells[0].textContent, r.cells[1].textContent])")
    assert cells == [["20,000", "3.3"], ["40,000", "1.65"], ["60,000", "1.1"]]


FIGURE = "document.querySelector('#figure-matched-macs, #figure-dit-scaling')"


def test_figures_are_embedded_with_values(browser, page):
    browser.open(page, where="#scaling")
    assert browser.js("document.querySelectorAll('.plot svg').length") == page.read_text().count("<svg ")
    assert browser.js(f"{FIGURE}.querySelector('svg use title').textContent").startswith(
        "DiT-S · S/8\nFID-50K ↓: 153.6"
    )
    rows = browser.js(f"[...{FIGURE}.querySelectorAll('tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))")
    assert rows[0][:4] == ["DiT-S", "S/8", "360 M MACs of one image", "153.6"] and len(rows) == 12


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_in_figures_has_contrast(browser, page, dark):
    browser.open(page, dark=dark, where="#scaling")
    inks = browser.js("[...new Set([...document.querySelectorAll('.plot text')].map((e) => getComputedStyle(e).fill))]")
    ground = browser.js("getComputedStyle(document.body).backgroundColor")
    assert len(inks) >= 5, "of axes, ticks and series"
    for ink in inks:
        assert contrast(*(hexadecimal(colour) for colour in (ink, ground))) >= 4.5, ink


def hexadecimal(rgb):
    """Convert rgb(0, 80, 125) to #00507d."""
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", rgb)[:3])


def test_samples_have_columns_of_models_rows_of_seeds(browser, page):
    browser.open(page, where="#samples")
    browser.wait("document.querySelector('.wall img')?.src.startsWith('data:image/webp')")
    browser.wait("document.querySelector('.wall img').naturalWidth === 80")
    rows = browser.js("[...document.querySelectorAll('.wall [role=row]')].map((r) => r.querySelectorAll('img').length)")
    assert sum(rows) in (9, 10) and len(rows) in (4, 5)


def test_verdicts_differ_without_colour(browser, page):
    browser.open(page, where="#tables")
    signs = browser.js("[...document.querySelectorAll('.notes .verdict')].map((e) => e.textContent)")
    signed = ["✓ reproduced", "≈ order reproduced", "✗ not reproduced", "○ not run", "– reference"]
    assert signs == signed
    borders = browser.js(
        "[...document.querySelectorAll('.notes .verdict')].map((e) => getComputedStyle(e).borderStyle)"
    )
    assert len(set(borders)) == 4, "not run and reference look alike"


def test_paper_table_separates_published_and_measured(browser, page):
    browser.open(page, where="#tables/dit-figure5")
    head = browser.js("[...document.querySelectorAll('thead th')].map((e) => e.textContent)")[:4]
    cells = browser.js("[...document.querySelectorAll('tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))")
    assert head == ["row", "metric", "published", "measured"]
    assert cells[-1][0] == "adaLN-Zero" and cells[-1][2:6] == ["19.47", "", "", "○ not run"]


def test_unfinished_run_shows_its_error(browser, page):
    browser.open(page, where=where("FAILED"))
    assert HOSTILE in browser.js("document.querySelector('main pre').textContent")


def test_back_button(browser, page):
    browser.open(page)
    browser.go(where("RUN"))
    assert browser.js("document.activeElement.tagName") == "H1"
    browser.js("history.back()")
    browser.wait("document.querySelector('h1').textContent === 'Leaderboards'")


def test_text_has_contrast_in_both_schemes(browser, page):
    """Text has a contrast of at least 4.5 to 1 (WCAG AA) in the light and the dark scheme."""
    pairs = [("ink", "page"), ("soft", "page"), ("link", "page"), ("soft", "wash"), ("ink", "wash"), ("link", "wash")]
    pairs += [(f"t{i}", "page") for i in range(6)]
    pairs += [(v, f"{v}-wash") for v in ("good", "fair", "bad", "none")]
    for dark in (False, True):
        browser.open(page, dark=dark)
        style = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
        for ink, ground in pairs:
            assert contrast(*(browser.js(style.format(name)) for name in (ink, ground))) >= 4.5, (ink, ground, dark)


def contrast(one, other):
    low, high = sorted(luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_page_of_thousand_runs_is_small_and_opens_fast(browser, tmp_path):
    publish(tmp_path, many_records(1002), pictures=False)
    assert report.main(["--results", str(tmp_path)]) == 0
    page = tmp_path / "report.html"
    assert page.stat().st_size < 6 * 2**20
    assert browser.open(page) < 10
    assert browser.js("document.querySelectorAll('table.board tbody tr').length") == 334
    assert browser.errors == []
