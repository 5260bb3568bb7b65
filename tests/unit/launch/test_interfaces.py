from megadga.launch.ranks import interface_towards, interface_variables


def test_the_interface_towards_this_machine_is_loopback():
    assert interface_towards("127.0.0.1") == "lo"


def test_an_address_that_cannot_be_resolved_has_no_interface():
    assert interface_towards("no-such-host.invalid") is None


def test_ranks_on_one_machine_talk_over_loopback():
    assert interface_variables({}, master_address="127.0.0.1", alone=True) == {
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }


def test_ranks_on_several_machines_never_do():
    assert interface_variables({}, master_address="127.0.0.1", alone=False) == {}


def test_what_the_user_has_set_stays():
    found = interface_variables(
        {"NCCL_SOCKET_IFNAME": "ib0"}, master_address="127.0.0.1", alone=True
    )
    assert found == {"GLOO_SOCKET_IFNAME": "lo"}
