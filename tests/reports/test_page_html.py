"""Test the page as a file: data, content security policy, size limits, and mistakes of the user."""

import json
import re
from pathlib import Path

import pytest
from page_study import ARCHS, page_study, publish, run

from bench import report
from bench.records import record
from bench.reports import page_html


def block(text, name):
    """Parse the JSON of a script element of the page."""
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)[1])


def test_page_holds_records_digit_for_digit(page, tmp_path):
    data = block(page.read_text(), "data")
    for r in page_study():
        text = "".join(data["pieces"][i] for i in data["records"][r.id])
        (tmp_path / f"{r.id}.json").write_text(text)
        assert record.read_record(tmp_path / f"{r.id}.json") == r


def test_page_needs_no_network(page):
    text = page.read_text()
    addresses = re.compile(r"""(?:src|href|action|url)\s*[=(]\s*["']?(?!#|data:|\$|\{)([\w./:-]+)""")
    assert not addresses.findall(text.split("<script")[0]) and "default-src 'none'" in text


def test_page_is_reproducible(page, results):
    assert page_html.build_page(results) == page.read_text()


def test_shared_parts_of_records_are_written_once(page):
    data = block(page.read_text(), "data")
    assert sum('"lr":' in piece for piece in data["pieces"]) == 3, "once for the configs, and once for each protocol"


def test_grids_within_limit_start_with_one_per_model(results):
    limit = 7 * max(p.stat().st_size for p in (results / "samples").iterdir())
    data = block(page_html.build_page(results, limit / 2**20), "data")
    embedded = data["pictures"]["embedded"]
    assert data["pictures"]["total"] == 19 and 7 <= len(embedded) < 9
    assert {data["runs"][id_]["label"] for id_ in embedded} >= set(ARCHS)
    assert {data["runs"][id_]["seed"] for id_ in embedded} == {0, 7}, "7 is the only seed of its model"
    assert block(page_html.build_page(results, 0), "pictures") == {}


MISTAKES = {
    "no folder": (["--results", "nowhere"], "is no folder"),
    "a folder to write to": (["--out", "."], "is a folder"),
    "a negative limit": (["--pictures", "-1"], "at least 0"),
    "no number": (["--pictures", "many"], "invalid float value"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_sentence(mistake, tmp_path, monkeypatch, capsys):
    words, sentence = MISTAKES[mistake]
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    try:
        status = report.main(words)
    except SystemExit as ended:
        status = ended.code
    captured = capsys.readouterr()
    assert status == 2 and sentence in captured.err and captured.err.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))


def test_damaged_record_leaves_previous_page(tmp_path, capsys):
    publish(tmp_path, [run("dit", 0, 60_000)], pictures=False)
    (tmp_path / "report.html").write_text("before")
    (record.records_folder(tmp_path) / "bad.json").write_text("{")
    assert report.main(["--results", str(tmp_path)]) == 2
    assert "bad.json" in capsys.readouterr().err and (tmp_path / "report.html").read_text() == "before"


def test_published_and_measured_never_share_axes(page):
    plots = re.findall(r"<svg .*?</svg>", page.read_text(), re.DOTALL)
    fills = [re.findall(r'<use [^>]*?fill="([^"]*)"[^>]*><title>', plot) for plot in plots]
    assert any(fills) and all(len({fill == "var(--page)" for fill in fills_of_plot}) <= 1 for fills_of_plot in fills), (
        "hollow or filled"
    )


REPOSITORY = Path(__file__).parents[2] / "results"


def test_committed_page_is_fresh_and_small():
    page = REPOSITORY / "report.html"
    assert page.read_text(encoding="utf-8") == page_html.build_page(REPOSITORY), "run python -m bench.report"
    assert page.stat().st_size < 2 * 2**20
