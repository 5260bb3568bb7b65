import pytest

from megadga.launch.hosts import forwarded


def test_what_remote_ranks_need_travels_and_nothing_else():
    needed = {
        "GLOO_SOCKET_IFNAME": "eth0",
        "HF_HOME": "/shared folder/$hf",
        "MEGADGA_RANKS": "4",
        "NCCL_DEBUG": "INFO",
        "OMP_NUM_THREADS": "8",
        "PYTHONPATH": "/code",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_EXTENSIONS_DIR": "/ops",
    }
    own = {"HOME": "/root", "HOSTNAME": "a", "CUDA_VISIBLE_DEVICES": "3", "RANK": "0", "LANG": "C"}
    assert forwarded({**own, **needed}) == needed


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "HF_HUB_Token",
        "TORCH_SECRET_X",
        "HF_PASSWORD",
        "NCCL_CREDENTIALS",
    ],
)
def test_a_secret_never_does(name):
    assert forwarded({name: "hush"}) == {}
