"""The page that shows the code names what there is."""

import re

import pytest

from tests.support.ranks import REPOSITORY

PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = re.findall(r"^\d\. `(megadga/\S+\.py)`", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("path", FILES)
def test_every_file_of_a_journey_exists(path: str):
    assert (REPOSITORY / path).is_file()


def test_every_package_and_module_at_the_top_is_in_the_picture():
    picture = PAGE.split("```")[1]
    package = REPOSITORY / "megadga"
    names = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in package.iterdir()
        if (path / "__init__.py").is_file() or path.suffix == ".py"
    }
    assert {name for name in names - {"__init__.py"} if name not in picture} == set()


@pytest.mark.parametrize("journey", PAGE.split("\n### ")[1:], ids=lambda text: text.split("\n")[0])
def test_a_journey_has_at_most_five_files(journey: str):
    assert 3 <= len(re.findall(r"^\d\. ", journey, flags=re.MULTILINE)) <= 5
