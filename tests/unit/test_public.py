"""What comes from ``import megadga``."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import megadga

SOURCE = Path(megadga.__file__)


def test_every_public_name_is_what_type_checkers_are_reported():
    (block,) = [n for n in ast.parse(SOURCE.read_text()).body if isinstance(n, ast.If)]
    declared = {
        (node.module, alias.asname)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert declared == {(module, name) for name, module in megadga._MODULES.items()}
    for name, module in megadga._MODULES.items():
        assert getattr(megadga, name) is getattr(sys.modules[module], name)
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
