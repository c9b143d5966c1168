"""Test bench.figures: files, --list, and mistakes of the user."""

import dataclasses
import json

import pytest
from figure_study import MATCHED, SCALING

from bench import figures
from bench.reports import figure_definitions


def write_records(folder, records):
    path = folder / "records" / "v1"
    path.mkdir(parents=True)
    for r in records:
        (path / f"{r.id}.json").write_text(json.dumps(dataclasses.asdict(r)))
    return folder


def test_empty_figure_is_refused_with_its_command(tmp_path, capsys):
    results = write_records(tmp_path, [])
    assert figures.main(["iso-flop-digits", "--results", str(results)]) == 2
    assert capsys.readouterr().err == (
        "bench.figures: iso-flop-digits has no data yet; run python -m bench.run --suite matched --scale digits\n"
    )
    assert not (results / "figures").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing"], "there is no figure nothing; known: dit-scaling, "),
        (["dit-scalin"], "there is no figure dit-scalin; did you mean dit-scaling"),
        (["--results", "nowhere"], "nowhere is no folder; name a results folder with --results"),
    ],
)
def test_mistake_is_one_sentence(argv, message, capsys):
    assert figures.main(argv) == 2
    assert capsys.readouterr().err.startswith(f"bench.figures: {message}")


def test_list_shows_panels_and_missing_commands(tmp_path, capsys):
    results = write_records(tmp_path, SCALING[:4])
    assert figures.main(["--list", "--results", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(figure_definitions.FIGURES)
    assert "    python -m bench.run --suite dit-scaling --scale digits  # 2 of 9 variants measured" in lines


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_equal_figures_give_equal_files(tmp_path, kind):
    results = write_records(tmp_path, MATCHED)
    drawn = []
    for out in ("a", "b"):
        assert (
            figures.main(["matched-macs", "--results", str(results), "--out", str(tmp_path / out), "--format", kind])
            == 0
        )
        drawn.append((tmp_path / out / f"matched-macs.{kind}").read_bytes())
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(b"\x89PNG" if kind == "png" else b"<?xml")
