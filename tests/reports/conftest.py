import pytest
from page_study import page_study, publish

from bench import report


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("results"), page_study())


@pytest.fixture(scope="session")
def page(results):
    assert report.main(["--results", str(results)]) == 0
    return results / "report.html"
