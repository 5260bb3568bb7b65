import pytest

from megadga.config.loading import load_config
from megadga.errors import ConfigError
from tests.support.runs import write_run


def groups_of(folder, *overrides):
    return load_config(write_run(folder), overrides).data.groups


def test_groups_are_lists_of_names_or_the_parents_of_clusters(tmp_path):
    assert groups_of(tmp_path) == {}
    assert groups_of(tmp_path, "data.groups=parents") == "parents"
    assert groups_of(tmp_path, "data.groups={code: [c1, c2]}") == {"code": ("c1", "c2")}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            "{code: [c1, c2], prose: [c3, c1]}",
            r"data\.groups: expected each domain in one group, found 'c1' in 'code' and 'prose'",
        ),
        ("{code: [c1, c1]}", "found 'c1' in 'code' and 'code'"),
        ("{other: [c1]}", r"data\.groups: expected printable names of groups, .* found 'other'"),
        ("{code: []}", r"data\.groups\.code: "),
        ("{code: c1}", r"data\.groups\.code: "),
        ("parent", r"data\.groups: expected 'parents', found 'parent'.*'parents'"),
    ],
)
def test_what_cannot_be_groups_is_an_error_at_its_key(tmp_path, groups, message):
    with pytest.raises(ConfigError, match=message):
        groups_of(tmp_path, f"data.groups={groups}")


def test_groups_are_no_part_of_what_is_trained(tmp_path):
    plain, grouped = (
        load_config(write_run(tmp_path), [f"data.groups={groups}"]).identity()
        for groups in ("{}", "{code: [c1]}")
    )
    assert plain == grouped
