"""Test the papers' tables: published and measured values stay in separate columns."""

import csv
import dataclasses
import io
from pathlib import Path

import pytest
from factories import metric, record_of_config

from bench import tables
from bench.experiments import presets, suites
from bench.papers import catalog, filling, published_networks, published_results, rendering, run_matching
from bench.papers.run_matching import RecordIndex
from bench.records import record
from bench.runs import launch
from bench.runs.flags import run_parser

TABLES, FIGURES = catalog.tables(), catalog.figures()
RESULTS = Path(__file__).parents[2] / "results"
WITH_SUITE = [t.name for t in TABLES.values() if t.suite]
WITH_RUNS = [(t.name, line) for t in TABLES.values() for line in t.runs]
WITH_VALUES = [t.name for t in TABLES.values() if t.file != "models"]


def paper_record(config, fid, *, seed=0, created="2026-11-23T00:00:00+00:00", status="done", reference="b", **more):
    """Build a record of a config; metric names include its extractor."""
    metrics = {
        f"{name}[{config.evaluation.extractor}]": metric(
            value,
            reach=0.1 * value,
            direction="lower" if name in ("fid", "sfid") else "higher",
            samples=config.evaluation.samples,
        )
        for name, value in {"fid": fid, **more}.items()
    }
    return record_of_config(
        dataclasses.replace(config, seed=seed),
        metrics,
        match_target=1,
        reference_hash=reference * 64,
        reference_count=100,
        created=created,
        status=status,
        error=None if status == "done" else "it failed",
    )


def of_suite(suite, scale, fids, seeds=3, spread=0.01):
    """Yield records of a suite's variants, {variant: FID}, with some seeds each."""
    wishes = {cell.name: cell.request for cell in suites.suite_variants(suite, scale)}
    for cell, fid in fids.items():
        for seed in range(seeds):
            yield paper_record(presets.compose_config(wishes[cell]), fid * (1 + spread * (seed - 1)), seed=seed)


def filled(name, scale, records):
    return filling.fill_table(name, scale, RecordIndex(records))


@pytest.fixture(scope="module")
def empty():
    return filling.fill_all_tables([])


@pytest.mark.parametrize("file, rows", [("results", 813), ("ablations", 160)])
def test_every_published_value_stands_in_a_table(file, rows):
    values = published_results.read_values(file)
    shown = {id(v) for name in WITH_VALUES for values in filling.values_by_line(TABLES[name]).values() for v in values}
    assert len(values) == rows
    assert [v for v in values if id(v) not in shown] == []


def test_every_network_stands_in_a_table():
    shown = {
        row.id for t in TABLES.values() if t.file == "models" for row in published_networks.select_networks(**t.where)
    }
    assert shown == {row.id for row in published_networks.read_networks()}


@pytest.mark.parametrize("file", ["results", "ablations"])
def test_every_published_value_names_its_source(file):
    for value in published_results.read_values(file):
        assert value.source and value.verified and (value.words or value.number is not None)


@pytest.mark.parametrize("name", WITH_VALUES)
def test_a_table_names_lines_that_the_paper_has(name):
    table = TABLES[name]
    cells = [line for cells_at_scale in table.cells.values() for line in cells_at_scale]
    ordered = [line for pair in (*table.better, *table.no_gain) for line in pair]
    assert {*cells, *ordered, *table.runs} <= set(filling.values_by_line(table))


@pytest.mark.parametrize("scale", ["paper", "digits", "shapes"])
@pytest.mark.parametrize("name", WITH_SUITE)
def test_a_table_names_cells_that_its_suite_has(name, scale):
    assert set(TABLES[name].cells[scale].values()) <= set(suites.variant_keys(TABLES[name].suite, scale))


@pytest.mark.parametrize("scale", ["paper", "digits", "shapes"])
@pytest.mark.parametrize("suite", ["dit-conditioning", "dit-scaling", "uvit-ablation", "unet-ablation"])
def test_every_cell_of_a_papers_suite_stands_in_a_table(suite, scale):
    shown = {cell for t in TABLES.values() if t.suite == suite for cell in t.cells[scale].values()}
    assert shown == set(suites.variant_keys(suite, scale))


def test_figures_name_existing_tables():
    assert {name for figure in FIGURES.values() for name in figure.tables} <= set(TABLES)
    assert not set(FIGURES) & set(TABLES)


def test_nothing_is_measured_without_a_record(empty):
    runs = [one for one in empty if TABLES[one.name].file != "models"]
    assert [row for one in runs for row in one.rows if row.measured is not None or row.records] == []
    assert {one.verdict for one in runs} == {"not run", "reference"}
    assert {one.name for one in runs if one.commands} == {one.name for one in runs if one.cells}


@pytest.mark.parametrize("name, scale", [("dit-figure5", "digits"), ("dit-table4", "shapes"), ("adm-table2", "digits")])
def test_records_leave_the_published_column_as_it_is(name, scale, empty):
    cells = TABLES[name].cells[scale].values()
    suite = TABLES[name].suite
    one = filled(name, scale, of_suite(suite, scale, {cell: 0.5 + i for i, cell in enumerate(cells)}))
    before = next(o for o in empty if (o.name, o.scale) == (name, scale))
    keep = ("line", "metric", "published", "printed", "words", "source", "verified", "note", "cell")
    assert [[getattr(r, k) for k in keep] for r in one.rows] == [[getattr(r, k) for k in keep] for r in before.rows]
    assert one.run == one.cells == len(TABLES[name].cells[scale])


def test_numbers_at_a_small_scale_are_never_judged():
    """They are not judged even if they equal the published numbers."""
    paper = {"in-context": 35.24, "cross-attention": 26.14, "adaLN": 25.21, "adaLN-Zero": 19.47}
    one = filled("dit-figure5", "digits", of_suite("dit-conditioning", "digits", paper))
    assert [(r.published, r.difference, r.verdict) for r in one.rows] == [(v, None, "") for v in paper.values()]
    assert one.verdict == one.order.verdict == "order reproduced"
    assert [r.measured for r in one.rows] == pytest.approx(list(paper.values()))
    assert {r.seeds for r in one.rows} == {3}


@pytest.mark.parametrize(
    "fids, verdict, rows",
    [
        ((35.0, 26.0, 25.0, 19.0), "reproduced", ["reproduced"] * 4),
        ((70.0, 50.0, 49.0, 30.0), "order reproduced", ["not reproduced"] * 4),
        ((19.5, 25.0, 26.0, 35.0), "not reproduced", None),
    ],
)
def test_numbers_in_the_papers_setting_are_judged(fids, verdict, rows):
    cells = dict(zip(TABLES["dit-figure5"].cells["paper"].values(), fids, strict=True))
    one = filled("dit-figure5", "paper", of_suite("dit-conditioning", "paper", cells))
    assert one.verdict == verdict
    assert rows is None or [r.verdict for r in one.rows] == rows
    assert [r.difference for r in one.rows] == pytest.approx([r.measured - r.published for r in one.rows])


def test_a_table_with_a_cell_missing_is_not_run():
    cells = {"adaLN": 25.0, "adaLN-Zero": 19.0}
    one = filled("dit-figure5", "paper", of_suite("dit-conditioning", "paper", cells))
    assert (one.verdict, one.order, one.run, one.cells) == ("not run", None, 2, 4)
    assert one.commands == ("python -m bench.run --suite dit-conditioning --scale paper",)
    assert [r.verdict for r in one.rows] == ["not run", "not run", "reproduced", "reproduced"]


def test_an_order_waits_for_every_seed():
    cells = {"in-context": 4.0, "cross-attention": 3.0, "adaLN": 2.0, "adaLN-Zero": 1.0}
    one = filled("dit-figure5", "digits", list(of_suite("dit-conditioning", "digits", cells))[:-1])
    assert (one.verdict, one.order, one.run, one.cells) == ("not run", None, 3, 4)
    assert [r.seeds for r in one.rows] == [3, 3, 3, 2]
    assert one.commands == ("python -m bench.run --suite dit-conditioning --scale digits",)


def test_only_the_order_is_judged_in_another_setting():
    one = filled(
        "udit-table3", "paper", of_suite("matched", "paper", {"uvit at dit:XL/2": 18.35, "dit at dit:XL/2": 20})
    )
    measured = [r for r in one.rows if r.measured is not None]
    assert [(r.difference, r.verdict) for r in measured] == [(None, "")] * 2
    assert one.verdict == "order reproduced"


@pytest.mark.parametrize("name", ["uvit-depth", "uvit-width", "uvit-patch"])
def test_no_measurement_is_judged_by_a_number_read_off_a_figure(name):
    cells = TABLES[name].cells["paper"]
    numbers = {
        v.columns["variant"]: v.number for v in published_results.select_values("ablations", **TABLES[name].where)
    }
    fids = {cells[line]: number or 7.1 for line, number in numbers.items()}
    one = filled(name, "paper", of_suite("uvit-ablation", "paper", fids))
    assert {r.verdict for r in one.rows} == {""}
    assert one.verdict == "order reproduced"


def test_words_are_judged_as_pairs():
    cells = TABLES["uvit-figure2a"].cells["digits"]
    good = dict(zip(cells.values(), (1.0, 2.0, 2.1, 3.1, 3.0), strict=True))
    one = filled("uvit-figure2a", "digits", of_suite("uvit-ablation", "digits", good))
    assert (one.verdict, one.order.pairs, one.order.agree) == ("order reproduced", 6, 6)
    swapped = good | {cells["no long skip"]: 0.5}
    assert filled("uvit-figure2a", "digits", of_suite("uvit-ablation", "digits", swapped)).verdict == "not reproduced"


def test_a_seed_counts_once_and_failures_do_not():
    wish = next(c.request for c in suites.suite_variants("dit-conditioning", "digits") if c.name == "adaLN")
    config = presets.compose_config(wish)
    older = paper_record(config, 9.0, created="2026-11-01T00:00:00+00:00")
    records = [
        paper_record(config, 2.0),
        older,
        paper_record(config, 4.0, seed=1),
        paper_record(config, 99.0, seed=2, status="failed"),
    ]
    row = next(r for r in filled("dit-figure5", "digits", records).rows if r.line == "adaLN")
    assert (row.measured, row.seeds) == (3.0, 2)
    assert len(set(row.records)) == 2


def test_two_protocols_of_evaluation_are_not_averaged():
    fids = {"adaLN": 2.0, "adaLN-Zero": 1.0}
    wishes = {c.name: presets.compose_config(c.request) for c in suites.suite_variants("dit-conditioning", "digits")}
    records = list(of_suite("dit-conditioning", "digits", fids))
    records += [paper_record(wishes["adaLN"], 50.0, seed=7, reference="c")]
    one = filled("dit-figure5", "digits", records)
    assert [r.measured for r in one.rows if r.seeds] == pytest.approx([2.0, 1.0])
    assert "1 records of other evaluation protocols are left out." in one.notes


@pytest.mark.parametrize("name, line", WITH_RUNS)
def test_a_rows_command_makes_the_record_that_fills_it(name, line):
    """The command names the same configuration, also for published weights."""
    table = TABLES[name]
    paper_run, value = table.runs[line], filling.values_by_line(table)[line][0]
    words = run_matching.run_command(paper_run, value).replace("'", "").split(" --set ")
    argv = [*words[0].split()[3:], *(part for setting in words[1:] for part in ("--set", setting))]
    wish = launch.parse_requests(run_parser("").parse_args(argv))[0]
    if paper_run.weights:
        args = presets.registry.size_args(paper_run.arch, paper_run.size)
        io = shape_of(paper_run)
        config = presets.checkpoint_config(
            wish, arch=paper_run.arch, size=paper_run.size, args=args, io=io, weights="f" * 64, process=None
        )
    else:
        config = presets.compose_config(wish)
    one = filled(
        name, "paper", [paper_record(config, value.number, sfid=1.0, precision=0.5, recall=0.5, **{"is": 9.0})]
    )
    rows = [r for r in one.rows if r.measured is not None]
    assert {r.line for r in rows} == ({line} if paper_run.identifiable else set())
    assert [r.verdict for r in rows if r.metric == value.metric] == ["reproduced"] * paper_run.identifiable


def shape_of(paper_run):
    """Return the shape of a row's network, which bench.run reads from its weights."""
    name = (
        paper_run.data or presets.compose_config(presets.RunRequest(arch=paper_run.arch, size=paper_run.size)).data.name
    )
    source = presets.open_source(name, "data")
    if paper_run.size.startswith("LDM"):
        return presets.IOSpec(
            channels=source.channels, size=source.size, num_classes=source.num_classes, null_label=True
        )
    networks = [
        n.io for n in published_networks.NETWORKS.values() if (n.arch, n.size) == (paper_run.arch, paper_run.size)
    ]
    return next(io for io in networks if (io.channels, io.size) == (source.channels, source.size) and not io.text_dim)


def test_counted_costs_are_judged_by_the_printed_ones(empty):
    verdicts_by_table = {one.name: one.verdict for one in empty if TABLES[one.name].file == "models"}
    assert {n for n, verdict in verdicts_by_table.items() if verdict == "reproduced"} == {
        *("dit-table1", "dit-table4-costs", "uvit-costs", "adm-costs", "genvit-costs")
    }
    assert verdicts_by_table["gentron-costs"] == "reference"
    mismatches = [
        (r.line, r.metric) for one in empty if one.name == "ldm-costs" for r in one.rows if r.verdict[:3] == "not"
    ]
    assert mismatches == [("LDM-4 (compression study, class-cond), 256 px", "parameters (M)")]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Write a results folder with one study at digits scale."""
    folder = tmp_path_factory.mktemp("results")
    fids = {"in-context": 4.0, "cross-attention": 3.0, "adaLN": 2.0, "adaLN-Zero": 1.0}
    for r in of_suite("dit-conditioning", "digits", fids):
        record.publish_record(folder, r)
    return folder


@pytest.mark.parametrize(
    "style, words",
    [
        ("text", ["adaLN-Zero", "19.47", "Verdict: order reproduced; 4 of 4 lines measured."]),
        ("md", ["| adaLN-Zero", "## Digits scale", "6 of 6 published pairs lie the same way (tau 1.00, p 0.042)"]),
        ("latex", ["\\begin{tabular}", "\\bottomrule", "% "]),
        ("html", ["<table>", "<td>adaLN-Zero", "<h2>dit-figure5"]),
    ],
)
def test_a_table_prints_in_every_format(results, capsys, style, words):
    assert tables.main(["dit-figure5", "--format", style, "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert [word for word in words if word not in out] == []


def test_the_csv_keeps_every_field_and_both_columns(results, capsys):
    assert tables.main(["dit-figure5", "--format", "csv", "--results", str(results)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [r["scale"] for r in rows] == ["paper"] * 4 + ["digits"] * 4
    assert [r["published"] for r in rows] == ["35.24", "26.14", "25.21", "19.47"] * 2
    assert [r["measured"] for r in rows[:4]] == [""] * 4
    assert [float(r["measured"]) for r in rows[4:]] == pytest.approx([4, 3, 2, 1])
    assert all(len(r["records"].split()) == 3 for r in rows[4:])


def test_html_takes_no_markup_from_names(empty):
    one = dataclasses.replace(empty[1], rows=(dataclasses.replace(empty[1].rows[0], line="<b>x</b>"),))
    assert "<b>" not in rendering.render_tables([one], "html")


def test_the_list_has_every_table_at_every_scale(results, capsys):
    assert tables.main(["--list", "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert [name for name in (*TABLES, *FIGURES) if name not in out] == []
    assert tables.main(["uvit-figure2a", "--scale", "shapes", "--results", str(results)]) == 0
    assert "python -m bench.run --suite uvit-ablation --scale shapes" in capsys.readouterr().out


def test_a_figure_prints_the_numbers_behind_it(results, capsys):
    assert tables.main(["dit-figure8", "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert "118.64" in out and "19.47" in out


@pytest.mark.parametrize(
    "argv, words",
    [
        (["dit-table40"], "there is no table 'dit-table40'; did you mean dit-table4"),
        (["dit-table2", "--scale", "digits"], "dit-table2 has no scale digits; it has paper"),
        ([], "name one table, or use --list or --write"),
        (["dit-table2", "--list"], "name one table, or use --list or --write"),
        (["--list", "--results", "/nowhere"], "/nowhere is no folder"),
    ],
)
def test_a_mistake_is_one_sentence(argv, words, capsys):
    argv = argv if "--results" in argv else [*argv, "--results", str(RESULTS)]
    assert tables.main(argv) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.out == "" and captured.err.count("\n") == 1


def test_the_pages_are_rebuilt_from_the_records(results):
    (results / "tables").mkdir()
    (results / "tables" / "gone.md").write_text("a table that no longer exists")
    assert tables.main(["--write", "--results", str(results)]) == 0
    assert {p.name for p in (results / "tables").iterdir()} == {"README.md", *(f"{name}.md" for name in TABLES)}
    text = (results / "tables" / "dit-figure5.md").read_text()
    assert "## Digits scale" in text and "--suite dit-conditioning --scale shapes" in text


def test_the_committed_pages_match_the_committed_records():
    rendered = rendering.render_pages(RecordIndex(record.read_records(RESULTS)))
    committed = {path.name: path.read_text() for path in (RESULTS / "tables").iterdir()}
    assert committed == rendered, "run python -m bench.tables --write"
