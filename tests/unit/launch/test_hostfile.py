import pytest

from megadga.errors import ConfigError
from megadga.launch.hosts import Host, first_hosts, read_hostfile


def write(folder, text):
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_hosts_are_read_in_order_and_comments_passed_over(tmp_path):
    path = write(
        tmp_path, "# two hosts\n\nnode-1 slots=4\n  192.0.2.7\tslots=8  \nfd00::2 slots=1"
    )
    assert read_hostfile(path) == (Host("node-1", 4), Host("192.0.2.7", 8), Host("fd00::2", 1))


def test_a_byte_order_mark_in_front_is_passed_over(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("node-1 slots=4\n", encoding="utf-8-sig")
    assert read_hostfile(path) == (Host("node-1", 4),)


@pytest.mark.parametrize(
    "line",
    [
        "node",
        "node slots=",
        "node slots=0",
        "node slots=-1",
        "node slots=2 max_slots=4",
        "node slots = 2",
        "node:2",
        "-oProxyCommand=evil slots=2",
        "no$de slots=2",
        "node slots=２",
    ],
)
def test_a_line_that_is_no_host_is_named_with_its_number(tmp_path, line):
    path = write(tmp_path, f"good slots=1\n{line}\n")
    with pytest.raises(ConfigError) as error:
        read_hostfile(path)
    assert str(error.value).startswith(f"{path}:2: expected 'NAME slots=N'")
    assert repr(line) in str(error.value)


def test_a_host_is_listed_once(tmp_path):
    path = write(tmp_path, "a slots=1\nb slots=1\na slots=1\n")
    with pytest.raises(
        ConfigError, match=r":3: expected every host once, found 'a' again.*line 1"
    ):
        read_hostfile(path)


def test_a_hostfile_that_is_missing_or_empty_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file or directory"):
        read_hostfile(tmp_path / "none")
    with pytest.raises(ConfigError, match="expected at least one host"):
        read_hostfile(write(tmp_path, "# nobody\n"))


def test_the_first_hosts_are_used_with_as_many_slots_as_asked_for(tmp_path):
    hosts = (Host("a", 4), Host("b", 8), Host("c", 1))
    used = first_hosts(tmp_path, hosts, nodes=2, accelerators_per_node=3)
    assert used == (Host("a", 3), Host("b", 3))


@pytest.mark.parametrize(
    ("nodes", "accelerators_per_node", "message"),
    [
        (4, 1, "expected at least 4 hosts, found 3"),
        (3, 2, "expected slots=2 or more at 'c', found 1"),
        (2, None, "expected slots=4 at 'b', found 8"),
    ],
)
def test_hosts_that_do_not_suffice_are_refused(tmp_path, nodes, accelerators_per_node, message):
    hosts = (Host("a", 4), Host("b", 8), Host("c", 1))
    with pytest.raises(ConfigError, match=message):
        first_hosts(tmp_path, hosts, nodes=nodes, accelerators_per_node=accelerators_per_node)
