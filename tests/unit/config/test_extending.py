import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megadga.config.loading import load_config
from megadga.config.mixing import ExtensionOptions
from megadga.config.run import differences
from megadga.config.validation import describe
from megadga.errors import ConfigError
from megadga.mixers.dga import DgaOptions
from tests.support.extensions import write_extension
from tests.support.runs import write_run

Write = Callable[..., Path]
STAYING = "mixing={type: staying, interval: 3}"
BUILT_IN = (
    "'ado', 'dga', 'doge', 'doremi', 'gradient_norm', 'grape', 'importance', "
    "'matched', 'odm', 'proportional', 'schedule', 'static', 'temperature', 'uniform'"
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Puts an extension on this process's path, until the test ends."""
    before = set(sys.modules)

    def write(**more: str) -> Path:
        folder = tmp_path / f"site{len(list(tmp_path.glob('site*')))}"
        written = write_extension(folder, **{"module": "staying_rule", **more})
        monkeypatch.syspath_prepend(written)
        return written

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("staying_rule"):
            del sys.modules[name]


def complaints(folder: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(write_run(folder), overrides)
    return str(error.value).splitlines()


def test_an_extensions_keys_are_keys_of_the_section(tmp_path, install):
    install()
    mixing = load_config(
        write_run(tmp_path), [STAYING, "mixing.initial={d0: 0.25, d1: 0.75}"]
    ).mixing
    assert isinstance(mixing, ExtensionOptions)
    assert mixing.model_dump() == {
        "type": "staying",
        "interval": 3,
        "probe": None,
        "initial": {"d0": 0.25, "d1": 0.75},
        "observes": "step",
        "inner": None,
        "lost": 0,
    }


def test_the_resolved_text_reads_back_as_the_same_run(tmp_path, install):
    install()
    overrides = [STAYING, "mixing.inner={size: 0.5}", "mixing.probe.type=in_flight"]
    config = load_config(write_run(tmp_path), overrides)
    resolved = tmp_path / "config.yaml"
    resolved.write_text(config.to_yaml())
    assert load_config(resolved) == config


def test_all_issues_are_reported_at_once_with_the_places_of_their_keys(tmp_path, install):
    install()
    overrides = (
        STAYING,
        "mixing.intervall=2",
        "mixing.inner={sise: 1}",
        "mixing.initial={type: temperature, temperature: 0}",
        "mixing.probe={type: directional, sequences_per_domain: 0}",
        "seed=-1",
    )
    assert complaints(tmp_path, *overrides) == [
        (
            "override 2: mixing.intervall: expected a known key, found 'intervall'; "
            "did you mean 'interval'?"
        ),
        "override 3: mixing.inner.size: expected a value, found nothing",
        "override 3: mixing.inner.sise: expected a known key, found 'sise'; did you mean 'size'?",
        "override 4: mixing.initial.temperature: expected a number greater than 0, found 0",
        (
            "override 5: mixing.probe.sequences_per_domain: expected a number greater than or "
            "equal to 1, found 0"
        ),
        "override 6: seed: expected a number greater than or equal to 0, found -1",
    ]


def test_what_no_rule_can_have_measured_is_refused(tmp_path, install):
    install()
    assert complaints(tmp_path, STAYING, "mixing.probe={direction_interval: 2}") == [
        (
            "override 2: mixing.probe.direction_interval: expected 1 with mixing.probe.direction "
            "full, or a low-rank one, found 2"
        )
    ]
    overrides = ("mixing.probe.type=in_flight", "training.global_batch_size=1")
    assert complaints(tmp_path, STAYING, *overrides, "training.micro_batch_size=1")[0].startswith(
        "override 3: training.global_batch_size: expected at least 2 with mixing.probe.type"
    )


def test_a_model_that_would_ignore_a_misspelt_key_does_not_in_a_run(tmp_path, install):
    text = """
from pydantic import BaseModel, field_validator

class options(BaseModel):
    rate: float = 1.0

    @field_validator("rate")
    @classmethod
    def check(cls, rate):
        if rate > 2.0:
            raise ValueError("too fast")
        return rate

def make(options, context): ...
"""
    install(text=text, module="staying_rule_ignoring")
    assert complaints(tmp_path, STAYING, "mixing.rat=1.0", "mixing.rate=3.0") == [
        "override 2: mixing.rat: expected a known key, found 'rat'; did you mean 'rate'?",
        "override 3: mixing.rate: expected what the extension accepts, found 3.0 (too fast)",
    ]
    assert complaints(tmp_path, STAYING, "mixing.rate=1.0e999")[0].endswith(
        "expected a finite number, found Infinity"
    )


def test_an_unknown_type_lists_what_there_is_and_names_the_nearest(tmp_path, install):
    install()
    assert complaints(tmp_path, "mixing={type: stayin}") == [
        (
            f"override 1: mixing.type: expected {BUILT_IN}, 'unimax' or 'staying', found "
            "'stayin'; did you mean 'staying'?"
        )
    ]


def test_a_built_in_type_cannot_be_shadowed(tmp_path, install):
    install(name="dga")
    assert isinstance(load_config(write_run(tmp_path)).mixing, DgaOptions)


@pytest.mark.parametrize(
    ("text", "attribute", "found"),
    [
        ("import no_such_module", "", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "", "ZeroDivisionError: division by zero"),
        ("", "none", "AttributeError: module 'MODULE' has no attribute 'none'"),
        ("", "", "module without options and make"),
        ("def make(): ...\noptions = 3", "", "options that are no pydantic model: 3"),
        (
            "import pydantic\ndef make(): ...\nclass options(pydantic.BaseModel):\n  probe: int",
            "",
            "options with the reserved key 'probe'",
        ),
        (
            (
                "import pydantic\ndef make(): ...\nclass options(pydantic.BaseModel):\n"
                "  rate: int = pydantic.Field(alias='speed')"
            ),
            "",
            "options with an alias for 'rate'",
        ),
    ],
    ids=["import", "raises", "no object", "empty", "no model", "reserved", "alias"],
)
def test_a_broken_extension_is_named_with_its_distribution(
    tmp_path, install, request, text, attribute, found
):
    module = f"staying_rule_{request.node.callspec.id.replace(' ', '_')}"
    install(text=text, module=module, attribute=attribute)
    target = f"{module}:{attribute}" if attribute else module
    assert complaints(tmp_path, STAYING) == [
        (
            "override 1: mixing.type: expected an extension that can be loaded, found "
            f"staying = {target} of some-rules 1.0: {found.replace('MODULE', module)}"
        )
    ]


def test_two_extensions_of_one_name_are_refused_by_their_distributions(tmp_path, install):
    install()
    install(module="staying_rule_too", distribution="other-rules")
    assert complaints(tmp_path, STAYING) == [
        (
            "override 1: mixing.type: expected an extension that one distribution brings, found "
            "staying = staying_rule_too of other-rules 1.0 and "
            "staying = staying_rule of some-rules 1.0"
        )
    ]


def test_options_and_version_belong_to_the_identity(tmp_path, install, monkeypatch):
    folder = install()
    path = write_run(tmp_path)
    before = load_config(path, [STAYING]).identity()
    other = load_config(path, [STAYING, "mixing.lost=1"]).identity()
    assert differences(before, other) == ["mixing.lost: expected 0, found 1"]
    information = folder / "some_rules-1.0.dist-info"
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: some-rules\nVersion: 2.0")
    newer = load_config(path, [STAYING]).identity()
    assert differences(before, newer) == [
        "extension: expected 'some-rules 1.0', found 'some-rules 2.0'"
    ]


def test_keys_are_described_by_the_extension(tmp_path, install):
    install()
    config = load_config(write_run(tmp_path), [STAYING, "mixing.inner={size: 0.5}"])
    lines = list(describe(config))
    at = lines.index("mixing.lost = 0")
    assert lines[at + 1] == "    Domains that the rule forgets. (default 0)"
    assert "mixing.inner.size = 0.5" in lines
    meaning = " ".join(line.strip() for line in lines[lines.index("mixing") :][1:5])
    assert "of an installed extension. Stays." in meaning


def test_keys_of_an_extension_mean_nothing_to_the_run_that_keys_of_dga_mean():
    class Other(ExtensionOptions):
        basis: str = "sine"
        min_effective_domains: float = 3.0

    assert Other(type="other").basis_file is None
    assert Other(type="other").least_effective_domains == 0.0
