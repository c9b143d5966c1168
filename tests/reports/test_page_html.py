import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, program
from made_records import config_of, many, metric, whole
from PIL import Image

from bench import report
from bench.records import record
from bench.records.protocol import fingerprint
from bench.reports import page_html

ARCHS = ("dit", "uvit", "unet")
HOSTILE = "</script><img src=x onerror='document.title=1'>&amp; \"quoted\" \u2028"
COSTS = {"dit": 8_000_000, "uvit": 16_000_000, "unet": 24_000_000}


def run(arch, seed, images):
    config = config_of(arch, seed, budget__images=images, budget__points=3)
    one = whole(config, fid=1 + ARCHS.index(arch) + 0.1 * seed, macs=COSTS[arch])
    found = {
        "incidents": [{"kind": "restart", "images": 20_000}] if seed else [],
        "created": f"2026-11-2{seed}T00:00:00",
    }
    return renamed(one, arch, **found)


def renamed(one, label, **more):
    """The record under another name, with the id that this gives it."""
    id_ = record.record_id(label, one.config, one.fingerprint)
    return dataclasses.replace(one, id=id_, label=label, **more)


def reference(label, fid):
    """Beside the others' boards: of the same evaluation."""
    one = run("dit", 0, 60_000)
    halves = {"evaluation": one.protocol["evaluation"]}
    own = {"protocol": halves, "fingerprint": fingerprint(halves), "config": {}, "kind": "reference"}
    metrics = {"fid[digits-cnn]": metric(fid, reach=0.1)}
    more = {"metrics": metrics, "cost": None, "curve": [], "losses": [], "checkpoint": None, "incidents": []}
    return dataclasses.replace(one, **own, **more, label=label, id=record.record_id(label, {}, own["fingerprint"]))


def study():
    """Two budgets of three networks and three seeds, references, a run that diverged, and hostile words."""
    runs = [run(arch, seed, images) for images in (60_000, 120_000) for arch in ARCHS for seed in range(3)]
    none = {"metrics": {}, "cost": None, "checkpoint": None, "curve": [], "losses": []}
    broken = renamed(runs[0], "dit broken", status="diverged", error=f"the loss is nan {HOSTILE}", **none)
    hostile = renamed(whole(config_of("dit", 7, budget__images=60_000, budget__points=3), fid=9.0), HOSTILE)
    return [*runs, reference("held-out", 0.2), reference("noise", 33.0), broken, hostile]


def publish(folder, records, pictures=True):
    for i, r in enumerate(records):
        path = record.records_folder(folder) / f"{r.id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(page_html.page_data.plain(r)))
        if pictures and r.kind == "model" and r.status == "done":
            sheet = np.random.default_rng(i).integers(0, 255, (80, 80), dtype=np.uint8)
            (folder / "samples").mkdir(exist_ok=True)
            Image.fromarray(sheet).save(folder / "samples" / f"{r.id}.webp", quality=60)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("results"), study())


@pytest.fixture(scope="module")
def page(results):
    assert report.main(["--results", str(results)]) == 0
    return results / "report.html"


def block(text, name):
    """The data of a page, as a browser reads it."""
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)[1])


def test_a_record_is_in_the_page_digit_for_digit(page, tmp_path):
    data = block(page.read_text(), "data")
    for r in study():
        text = "".join(data["pieces"][i] for i in data["records"][r.id])
        (tmp_path / f"{r.id}.json").write_text(text)
        assert record.read_record(tmp_path / f"{r.id}.json") == r


def test_the_page_asks_no_network_and_names_nothing_outside_itself(page):
    text = page.read_text()
    addresses = re.compile(r"""(?:src|href|action|url)\s*[=(]\s*["']?(?!#|data:|\$|\{)([\w./:-]+)""")
    assert not addresses.findall(text.split("<script")[0]) and "default-src 'none'" in text


def test_the_page_is_the_same_whenever_it_is_made_of_the_same(page, results):
    assert page_html.build(results) == page.read_text()


def test_the_same_part_of_many_records_is_written_once(page):
    data = block(page.read_text(), "data")
    assert sum('"lr":' in piece for piece in data["pieces"]) == 3, "of the configs, and of each protocol"


def test_grids_stop_at_the_limit_and_one_of_each_model_comes_first(results):
    limit = 7 * max(p.stat().st_size for p in (results / "samples").iterdir())
    data = block(page_html.build(results, limit / 2**20), "data")
    there = data["pictures"]["there"]
    assert data["pictures"]["of"] == 19 and 7 <= len(there) < 9
    assert {data["runs"][id_]["label"] for id_ in there} >= set(ARCHS)
    assert {data["runs"][id_]["seed"] for id_ in there} == {0, 7}, "7 is the only seed of its model"
    assert block(page_html.build(results, 0), "pictures") == {}


MISTAKES = {
    "no folder": (["--results", "nowhere"], "is no folder"),
    "a folder to write to": (["--out", "."], "is a folder"),
    "a negative limit": (["--pictures", "-1"], "at least 0"),
    "no number": (["--pictures", "many"], "invalid float value"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_sentence(mistake, tmp_path, monkeypatch, capsys):
    words, sentence = MISTAKES[mistake]
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    try:
        status = report.main(words)
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr()
    assert status == 2 and sentence in said.err and said.err.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))


def test_a_damaged_record_is_refused_and_the_page_before_stays(tmp_path, capsys):
    publish(tmp_path, [run("dit", 0, 60_000)], pictures=False)
    (tmp_path / "report.html").write_text("before")
    (record.records_folder(tmp_path) / "bad.json").write_text("{")
    assert report.main(["--results", str(tmp_path)]) == 2
    assert "bad.json" in capsys.readouterr().err and (tmp_path / "report.html").read_text() == "before"


def test_the_page_is_made_without_torch():
    code = "import sys, bench.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


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
    records = study()
    return {"RUN": f"#run/{records[1].id}", "FAILED": f"#run/{records[-2].id}"}.get(place, place)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("place", PLACES)
def test_every_part_fits_its_screen_without_an_error_or_a_request(browser, page, place, width, dark):
    browser.open(page, width=width, dark=dark, where=where(place))
    browser.js("new Promise((done) => setTimeout(done, 30))")
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("document.querySelectorAll('h1').length") == 1
    assert browser.js("document.title").endswith("backbone bench")


NAMES = "main section:not([hidden]) table.board tbody th"


def labels(browser, board=None):
    """The models of one board, or of all that are shown, from top to bottom."""
    among = NAMES if board is None else f"section:nth-of-type({board + 1}) table.board tbody th"
    return browser.js(f"[...document.querySelectorAll({among!r})].map((e) => e.textContent)")


def choose(browser, title, value):
    label = f"[...document.querySelectorAll('.controls label')].find((l) => l.textContent.startsWith({title!r}))"
    change = "e.dispatchEvent(new Event('change'))"
    browser.js(f"{{ const e = {label}.querySelector('select'); e.value = {value!r}; {change}; }}")


def test_names_are_never_read_as_markup(browser, page):
    browser.open(page)
    assert HOSTILE in labels(browser)
    assert browser.js("document.querySelectorAll('main img').length") == 0


def test_a_header_sorts_its_table_best_first_and_then_the_other_way_by_keyboard(browser, page):
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
    assert labels(browser, board) == [*models[2::-1], *models[3:]], "what has no value comes last"


def test_filters_leave_what_fits_and_say_how_many(browser, page):
    browser.open(page)
    choose(browser, "architecture", "uvit")
    choose(browser, "budget", "120000")
    assert labels(browser) == ["uvit", "held-out", "noise"]
    assert browser.js("document.querySelector('#said').textContent").startswith("1 rows shown of 7")
    browser.js("document.querySelector('.check input').click()")
    assert [x for x in labels(browser) if x.startswith("uvit")] == [f"uvit, seed {s}" for s in range(3)]


def test_the_keyboard_skips_to_the_content(browser, page):
    browser.open(page)
    browser.press("Tab")
    assert browser.js("document.activeElement.className") == "skip"
    assert browser.js("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Enter")
    assert browser.js("document.activeElement.id") == "main"
    assert browser.js("location.hash") == ""


def test_a_run_draws_its_curves_and_lists_their_values(browser, page):
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


def test_figures_are_drawn_before_and_only_copied(browser, page):
    browser.open(page, where="#scaling")
    assert browser.js("document.querySelectorAll('.plot svg').length") == page.read_text().count("<svg ")
    assert browser.js(f"{FIGURE}.querySelector('svg use title').textContent").startswith(
        "DiT-S · S/8\nFID-50K ↓: 153.6"
    )
    rows = browser.js(f"[...{FIGURE}.querySelectorAll('tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))")
    assert rows[0][:4] == ["DiT-S", "S/8", "360 M MACs of one image", "153.6"] and len(rows) == 12


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_in_figures_can_be_read(browser, page, dark):
    browser.open(page, dark=dark, where="#scaling")
    inks = browser.js("[...new Set([...document.querySelectorAll('.plot text')].map((e) => getComputedStyle(e).fill))]")
    ground = browser.js("getComputedStyle(document.body).backgroundColor")
    assert len(inks) >= 5, "of axes, ticks and series"
    for ink in inks:
        assert contrast(*(hexadecimal(colour) for colour in (ink, ground))) >= 4.5, ink


def hexadecimal(rgb):
    """rgb(0, 80, 125) as #00507d."""
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", rgb)[:3])


def test_samples_stand_side_by_side_a_column_a_model_a_row_a_seed(browser, page):
    browser.open(page, where="#samples")
    browser.wait("document.querySelector('.wall img')?.src.startsWith('data:image/webp')")
    browser.wait("document.querySelector('.wall img').naturalWidth === 80")
    rows = browser.js("[...document.querySelectorAll('.wall [role=row]')].map((r) => r.querySelectorAll('img').length)")
    assert sum(rows) in (9, 10) and len(rows) in (4, 5)


def test_a_verdict_reads_without_colour(browser, page):
    browser.open(page, where="#tables")
    signs = browser.js("[...document.querySelectorAll('.notes .verdict')].map((e) => e.textContent)")
    signed = ["✓ reproduced", "≈ order reproduced", "✗ not reproduced", "○ not run", "– reference"]
    assert signs == signed
    borders = browser.js(
        "[...document.querySelectorAll('.notes .verdict')].map((e) => getComputedStyle(e).borderStyle)"
    )
    assert len(set(borders)) == 4, "not run and reference look alike"


def test_a_table_of_a_paper_keeps_published_and_measured_apart(browser, page):
    browser.open(page, where="#tables/dit-figure5")
    head = browser.js("[...document.querySelectorAll('thead th')].map((e) => e.textContent)")[:4]
    cells = browser.js("[...document.querySelectorAll('tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))")
    assert head == ["row", "metric", "published", "measured"]
    assert cells[-1][0] == "adaLN-Zero" and cells[-1][2:6] == ["19.47", "", "", "○ not run"]


def test_published_and_measured_points_never_share_axes(page):
    plots = re.findall(r"<svg .*?</svg>", page.read_text(), re.DOTALL)
    fills = [re.findall(r'<use [^>]*?fill="([^"]*)"[^>]*><title>', plot) for plot in plots]
    assert any(fills) and all(len({fill == "var(--page)" for fill in own}) <= 1 for own in fills), "hollow or filled"


def test_a_run_that_did_not_finish_says_why_on_its_page(browser, page):
    browser.open(page, where=where("FAILED"))
    assert HOSTILE in browser.js("document.querySelector('main pre').textContent")


def test_the_back_button_leads_back(browser, page):
    browser.open(page)
    browser.go(where("RUN"))
    assert browser.js("document.activeElement.tagName") == "H1"
    browser.js("history.back()")
    browser.wait("document.querySelector('h1').textContent === 'Leaderboards'")


def test_all_text_has_the_contrast_that_reading_needs(browser, page):
    """WCAG AA, 4.5 to 1, of the inks on the page in both schemes."""
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


def test_a_thousand_runs_are_a_small_page_that_opens_at_once(browser, tmp_path):
    publish(tmp_path, many(1002), pictures=False)
    assert report.main(["--results", str(tmp_path)]) == 0
    page = tmp_path / "report.html"
    assert page.stat().st_size < 6 * 2**20
    assert browser.open(page) < 10
    assert browser.js("document.querySelectorAll('table.board tbody tr').length") == 334
    assert browser.errors == []


REPOSITORY = Path(__file__).parents[2] / "results"


def test_the_committed_page_is_fresh_and_small():
    page = REPOSITORY / "report.html"
    assert page.read_text(encoding="utf-8") == page_html.build(REPOSITORY), "run python -m bench.report"
    assert page.stat().st_size < 2 * 2**20
