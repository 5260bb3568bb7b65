"""The commands of docs/data.md by which data of others become shards, on small data of others."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megadga.data.inspection import find_sources
from megadga.data.manifest import read_manifest
from megadga.prepare.tokenizers.loading import load_tokenizer
from tests.support.huggingface import train_byte_level
from tests.support.raw_shards import write_raw_shard
from tests.support.texts import made_up_texts
from tests.support.tools import run_command

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "data.md"
TEXTS = made_up_texts(30)


def write_hub(folder: Path) -> None:
    pytest.importorskip("datasets")
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = folder / "web" / "data"
    data.mkdir(parents=True)
    for split, texts in (("train", TEXTS), ("validation", TEXTS[:4])):
        table = pa.table({"text": texts})
        parquet.write_table(table, data / f"{split}-00000-of-00001.parquet")
    (folder / "web" / "README.md").write_text("# A dataset\n")


def write_mds(folder: Path) -> None:
    streaming = pytest.importorskip("streaming", reason="mosaicml-streaming is not installed")
    with streaming.MDSWriter(out=str(folder / "mds"), columns={"text": "str"}) as writer:
        for text in TEXTS:
            writer.write({"text": text})


def write_litdata(folder: Path) -> None:
    litdata = pytest.importorskip("litdata", reason="litdata is not installed")
    litdata.optimize(
        fn=_row, inputs=TEXTS, output_dir=str(folder / "lit"), chunk_bytes="1MB", num_workers=1
    )


def _row(text: str) -> dict[str, str]:
    return {"text": text}


def write_olmo(folder: Path) -> None:
    (folder / "olmo").mkdir()
    documents = encoded(folder)
    for number, part in ((1, documents[:20]), (9, documents[20:])):
        flat = np.concatenate(part).astype("<u2")
        flat.tofile(folder / "olmo" / f"part-{number:02d}-00000.npy")


def write_megatron(folder: Path) -> None:
    (folder / "megatron").mkdir()
    documents = [[*map(int, ids)] for ids in encoded(folder)]
    for name, part in (("web_1", documents[:20]), ("web_valid_1", documents[20:])):
        write_raw_shard(folder / "megatron" / name, part, list(range(len(part) + 1)))


def encoded(folder: Path) -> list[np.ndarray]:
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    return [np.append(ids, tokenizer.identity.eod) for ids in tokenizer.encode(TEXTS)]


CASES: dict[str, tuple[Callable[[Path], None], dict[str, tuple[str, ...]]]] = {
    "Hugging Face `datasets`": (
        write_hub,
        {"shards/generic": ("web", "saved", "streamed")},
    ),
    "MosaicML MDS": (write_mds, {"shards/generic": ("mosaic",)}),
    "litdata": (write_litdata, {"shards/generic": ("lightning",)}),
    "OLMo, dolma, nanoGPT": (write_olmo, {"shards": ("olmo",)}),
    "Megatron": (write_megatron, {"": ("megatron",)}),
}


def section(title: str) -> str:
    """What the page says under a heading."""
    _, _, rest = DOCUMENTATION.read_text().partition(f"\n### {title}\n")
    assert rest
    return re.split(r"\n##", rest)[0]


def commands(text: str) -> list[str]:
    """The commands in the blocks for a shell, each in one line."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines]


def run(command: str, folder: Path) -> None:
    if command.startswith("megadga "):
        done = run_command(*shlex.split(command)[1:])
    else:
        python = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=folder, env={**os.environ, **python, **offline},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, (command, done.stderr)


@pytest.mark.parametrize("title", CASES)
def test_the_commands_of_the_page_make_shards_of_the_data_of_others(tmp_path, monkeypatch, title):
    write, expected = CASES[title]
    monkeypatch.chdir(tmp_path)
    train_byte_level(tmp_path / "tokenizer.json")
    write(tmp_path)
    for name, program in re.findall(r"```python\n# (\S+)\n(.*?)```", section(title), re.DOTALL):
        (tmp_path / name).write_text(program)

    for command in commands(section(title)):
        if not command.startswith("hf download "):  # there is no network
            run(command, tmp_path)

    for folder, names in expected.items():
        for name in names:
            (source,) = find_sources(tmp_path / folder / name)
            manifest = read_manifest(source.path)
            held_out = manifest.num_documents("valid")
            assert held_out > 0
            repeated = 4 if name in ("web", "saved") else 0
            assert manifest.num_documents("train") + held_out == len(TEXTS) + repeated
