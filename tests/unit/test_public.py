"""What comes from ``import megadga``."""

import ast
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import megadga

STUB = Path(megadga.__file__).with_suffix(".pyi")


def test_every_public_name_is_imported_from_where_type_checkers_find_it():
    declared = [
        (f"megadga.{node.module}", alias.name)
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]

    assert sorted(vars(megadga)["__all__"]) == sorted(name for _, name in declared)
    for module, name in declared:
        assert getattr(megadga, name) is getattr(import_module(module), name)
        assert name in dir(megadga)
    assert megadga.__version__ == version("megadga")


def test_a_name_that_is_none_is_an_attribute_error():
    assert not hasattr(megadga, "open_domainz")


def test_the_package_and_its_rules_start_without_torch():
    program = (
        "import megadga, sys; megadga.Dga; megadga.open_domains; print('torch' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"
