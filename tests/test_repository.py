"""Check rules of the repository itself: documents name what exists, files, functions and test names stay short."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "architectures/README.md", "slurm/README.md", "results/README.md"]
PATH = re.compile(r"`((?:architectures|bench|tests|results|slurm)/[\w./-]+)(?::(\w+))?`")
PER_RUN = ("results/runs/", "results/report.html", "results/cache/")
"""Paths that runs write."""
PLACEHOLDER = re.compile(r"\b(ID|MODULE|NAME|PACKAGE)\b")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_paths_and_names_that_exist(document):
    for path, name in PATH.findall((ROOT / document).read_text()):
        if not path.startswith(PER_RUN) and not PLACEHOLDER.search(path):
            assert (ROOT / path).exists(), path
            assert re.search(rf"\b{name}\b", (ROOT / path).read_text()) if name else True, f"{path} has no {name}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_documents_point_to_files(document):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", (ROOT / document).read_text()):
        target = next(filter(None, link))
        assert ((ROOT / document).parent / target).exists(), target


def test_the_readme_has_at_most_120_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def functions(folder):
    """Yield (path, definition) of all functions in the Python files of a folder."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield path.relative_to(ROOT), node


@pytest.mark.parametrize("folder", ["architectures", "bench", "tests"])
def test_files_have_at_most_400_lines(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert not {str(path): length for path, length in lengths.items() if length > 400}


@pytest.mark.parametrize("folder", ["architectures", "bench"])
def test_functions_have_at_most_50_lines(folder):
    assert not [f"{path} {node.name}" for path, node in functions(folder) if node.end_lineno - node.lineno >= 50]


def test_names_of_tests_have_at_most_60_characters():
    assert not [f"{path} {node.name}" for path, node in functions("tests") if len(node.name) > 60]
