"""Test the TOML files of the papers' tables, and the messages for mistakes in them."""

import tomllib

import pytest

from bench.papers import catalog
from bench.papers.published_networks import PUBLISHED_FOLDER

GOOD = """
position = 1
paper = "arXiv:0000.00000"
[notes]
short = "A note."
[tables.one]
title = "One"
file = "ablations"
where = { study = "conditioning block" }
suite = "dit-conditioning"
shared_note = "short"
[tables.one.cells]
"adaLN" = "adaLN"
"XL" = { paper = "adaLN-Zero" }
[tables.two]
title = "Two"
file = "results"
paper = "arXiv:1111.11111"
where = { table = ["Table 1", "Table 2"] }
key = ["model", "steps"]
[tables.two.runs]
"DiT-XL/2" = { arch = "dit", size = "XL/2" }
[figures.three]
title = "Three"
tables = ["one", "two"]
drawn = "dit-scaling"
"""


def write(folder, text, name="new.toml"):
    (folder / name).write_text(text)
    return folder


def test_an_entry_is_filled_in_from_its_file(tmp_path):
    tables, figures = catalog.read_catalog(write(tmp_path, GOOD))
    one, two = tables.values()
    assert (one.name, one.paper, one.note, one.key) == ("one", "arXiv:0000.00000", "A note.", ("variant",))
    assert (two.paper, two.key, two.runs["DiT-XL/2"].arch) == ("arXiv:1111.11111", ("model", "steps"), "dit")
    assert (figures["three"].paper, figures["three"].tables) == ("arXiv:0000.00000", ("one", "two"))


def test_a_cell_stands_at_every_scale_or_at_those_named(tmp_path):
    table = catalog.read_catalog(write(tmp_path, GOOD)).tables["one"]
    assert table.cells == {
        "paper": {"adaLN": "adaLN", "XL": "adaLN-Zero"},
        "digits": {"adaLN": "adaLN"},
        "shapes": {"adaLN": "adaLN"},
    }


def test_files_are_listed_by_position(tmp_path):
    write(tmp_path, GOOD, "b.toml")
    first = '[tables.zero]\ntitle = "Zero"\nfile = "models"\nwhere = {}\n'
    write(tmp_path, f'position = 0\npaper = ""\n{first}', "c.toml")
    assert list(catalog.read_catalog(tmp_path).tables) == ["zero", "one", "two"]


def test_the_readmes_example_is_read(tmp_path):
    indented = [line for line in (PUBLISHED_FOLDER / "README.md").read_text().splitlines() if line[:4] in ("    ", "")]
    example = "\n".join(line[4:] for line in indented)
    tables, figures = catalog.read_catalog(write(tmp_path, example[example.index("position") :]))
    assert (list(tables), list(figures)) == (["NAME"], ["FIGURE"])
    assert tables["NAME"].cells["digits"] == {"default": "default", "none": "skip: none"}


def test_positions_of_files_differ():
    positions = [tomllib.loads(path.read_text())["position"] for path in (PUBLISHED_FOLDER / "tables").glob("*.toml")]
    assert sorted(positions) == list(range(1, len(positions) + 1))


@pytest.mark.parametrize(
    "before, after, words",
    [
        ('"Two"', '"Two', "new.toml: Illegal character"),
        ("position = 1", 'position = "x"', "new.toml: position is 'x'; it should be a valid integer"),
        ("[notes]", "colour = 1\n[notes]", "new.toml: unknown key 'colour'; known: "),
        ('title = "Two"\n', "", "new.toml, table two: title is missing"),
        ('title = "Two"', "title = 2", "new.toml, table two: title is 2; it should be a valid string"),
        ('title = "Two"', 'name = "two"', "new.toml, table two: the section gives the name; remove the key name"),
        ("key =", "keys =", "new.toml, table two: unknown key 'keys'; did you mean key"),
        ('size = "XL/2"', 'siz = "XL/2"', "new.toml, table two: runs.DiT-XL/2.size is missing"),
        (
            'arch = "dit"',
            'arch = "dit", sizes = "S/2"',
            "table two: unknown key 'runs.DiT-XL/2.sizes'; did you mean runs.DiT-XL/2.size",
        ),
        ('file = "results"', 'file = "result"', "new.toml, table two: file is 'result'; it should be 'results', "),
        ("{ table =", "{ tables =", "table two: there is no column 'tables' in results.csv; did you mean table"),
        ('["Table 1", "Table 2"]', "1", "new.toml, table two: where.table.0 is 1; it should be a valid string"),
        ('"model", "steps"', '"step"', "table two: there is no column 'step' in results.csv; did you mean steps"),
        ('"short"\n', '"shirt"\n', "new.toml, table one: there is no shared note 'shirt'; did you mean short?"),
        ('"short"\n', "2\n", "new.toml, table one: there is no shared note '2'; known: short"),
        (
            '[tables.one.cells]\n"adaLN" = "adaLN"\n"XL" = { paper = "adaLN-Zero" }',
            "cells = 1",
            "table one: cells is 1; it",
        ),
        ('= "adaLN"', "= 1", "new.toml, table one: cells.digits.adaLN is 1; it should be a valid string"),
        ('"short"\n', '"short"\nnote = "x"\n', "new.toml, table one: it has a note and a shared_note"),
        ('suite = "dit-conditioning"\n', "", "new.toml, table one: suite and cells need each other"),
        ("dit-conditioning", "dit-condition", "table one: there is no suite 'dit-condition'; did you mean dit-cond"),
        ('= "adaLN"', '= "ada"', "table one: there is no variant 'ada' at digits scale; did you mean adaLN"),
        ("{ paper = ", "{ digit = ", "new.toml, table one: cells.digit"),
        ('"one", "two"', '"four"', "new.toml, figure three: there is no table 'four'; "),
        ("figures.three", "figures.two", "new.toml, figure two: another table or figure has this name"),
        ("drawn = ", "drawn_by = ", "new.toml, figure three: drawn is missing"),
    ],
)
def test_a_mistake_names_its_file_and_its_entry(tmp_path, before, after, words):
    assert before in GOOD
    with pytest.raises(ValueError) as error:
        catalog.read_catalog(write(tmp_path, GOOD.replace(before, after, 1)))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "new.toml"))


def test_two_files_cannot_share_a_table(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(ValueError, match=r"second\.toml, table one: another table or figure has this name"):
        catalog.read_catalog(write(tmp_path, GOOD.replace("figures.three", "figures.other"), "second.toml"))


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.toml file"):
        catalog.read_catalog(tmp_path)
