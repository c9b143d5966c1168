"""Check rules of the repository itself: documents name what exists, files, functions and test names stay short."""

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


@pytest.mark.parametrize("document", DOCUMENTS[1:])
def test_links_of_documents_point_to_files(document):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", (ROOT / document).read_text()):
        target = next(filter(None, link))
        assert ((ROOT / document).parent / target).exists(), target


def test_the_readme_has_at_most_120_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
