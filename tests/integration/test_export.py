"""Runs of every ZeRO stage as Hugging Face folders: the same weights, logits and tokens."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megadga.cli import main
from megadga.config.loading import load_config
from megadga.config.models import LlamaModel
from megadga.export import ExportOptions, export_run
from megadga.model.llama import Llama
from megadga.model.naming import to_hugging_face
from megadga.prepare.training import train_tokenizer
from tests.support.jobs import alone, on_ranks, run_job
from tests.support.runs import write_run
from tests.support.texts import made_up_texts, write_lines

RUN = """\
seed: 17
output: out
model: {type: llama, preset: nano, sequence_length: 16}
data: {domains: shards}
mixing: {type: schedule, between: linear, stages: [
  {step: 0, weights: uniform}, {step: 2, weights: {a: 0.25, b: 0.75}}]}
training: {steps: 2, global_batch_size: 4, micro_batch_size: 2}
deepspeed: zero.json
evaluation: {interval: 2, sequences: 2}
checkpoint: {interval: 1, keep_last: null}
"""
UNTIED = "model.tied_embeddings=false"
BF16 = "training.precision=bf16"


def stage(number: int, *more: str) -> list[str]:
    return [f"deepspeed.zero_optimization.stage={number}", *more]


RUNS = {
    1: {
        "zero0": stage(0),
        "zero0-bf16": stage(0, BF16),
        "zero1-untied": stage(1, UNTIED),
        "zero2": stage(2),
        "zero3-untied": stage(3, UNTIED),
    },
    2: {
        "zero0-untied": stage(0, UNTIED),
        "zero1": stage(1),
        "zero2-untied-bf16": stage(2, UNTIED, BF16, "model.vocabulary_size=411"),
        "zero3": stage(3),
    },
}
QWEN = """model={type: hugging_face, sequence_length: 16, config: {model_type: qwen3,
    hidden_size: 16, intermediate_size: 20, num_hidden_layers: 1, num_attention_heads: 2,
    num_key_value_heads: 1, head_dim: 8, max_position_embeddings: 16,
    tie_word_embeddings: true}}"""
MIXTRAL = """model={type: hugging_face, sequence_length: 16, config: {model_type: mixtral,
    hidden_size: 16, intermediate_size: 20, num_hidden_layers: 1, num_attention_heads: 2,
    num_key_value_heads: 1, num_local_experts: 2, max_position_embeddings: 16}}"""
OF_TRANSFORMERS = {"qwen3": stage(3, QWEN), "mixtral": stage(2, MIXTRAL)}
RUNS[2] |= OF_TRANSFORMERS
CASES = [
    (ranks, name) for ranks, runs in RUNS.items() for name in runs if name not in OF_TRANSFORMERS
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs, in a folder for each number of ranks."""
    root = tmp_path_factory.mktemp("export")
    tokenizer = train_tokenizer(made_up_texts(200), vocab_size=400, prefix=root / "web")
    for name, seed in (("a", 1), ("b", 2)):
        write_lines(root / f"{name}.jsonl", made_up_texts(60, seed=seed))
    build = [f"--tokenizer={tokenizer.path}", f"--output={root / 'shards'}", "--workers=1"]
    inputs = [str(root / "a.jsonl"), str(root / "b.jsonl")]
    assert main(["data", "build", "--input", *inputs, *build]) == 0
    for ranks, runs in RUNS.items():
        of_ranks = root / str(ranks)
        of_ranks.mkdir()
        (of_ranks / "shards").symlink_to(root / "shards")
        write_run(of_ranks, RUN)
        worker = "tests.integration.workers.exported_runs"
        job = run_job(on_ranks(worker, json.dumps(runs), ranks=ranks), of_ranks)
        assert job.code == 0, job.text
    return root


@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_a_run_of_any_stage_is_exported_bit_by_bit(folder, tmp_path, ranks, name):
    run = folder / str(ranks) / name
    config = load_config(run / "config.yaml")
    assert isinstance(config.model, LlamaModel)
    masters = torch.load(f"{run}.weights.pt")

    exported = export_run(run, tmp_path / "out", ExportOptions(max_shard_size="60KB"))

    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    assert all(file.stat().st_size < 70_000 for file in files)
    weights = {key: tensor for file in files for key, tensor in load_file(file).items()}
    assert weights.keys() == {to_hugging_face(own) for own in masters}
    assert all(weights[to_hugging_face(own)].equal(tensor) for own, tensor in masters.items())
    assert exported.num_parameters == sum(tensor.numel() for tensor in masters.values())
    ours = Llama(
        config.model.shape,
        vocabulary_size=config.model.vocabulary_size or 400,
        sequence_length=16,
        seed=0,
    )
    ours.load_state_dict(masters, strict=False)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.arange(48).view(3, 16) * 8
    with torch.no_grad():
        expected, found = ours.logits(tokens), theirs(tokens).logits
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5)


def test_the_command_writes_a_folder_that_says_what_is_in_it(folder, tmp_path, capsys):
    out = tmp_path / "models" / "out"
    code = main(["export", str(folder / "2/zero3"), str(out), "--step=1", "--dtype=bf16"])

    assert code == 0
    assert capsys.readouterr().out.startswith(f"{out}: step 1, 31,392 parameters in bf16, 8 files")
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["torch_dtype"], config["vocab_size"]) == ("bfloat16", 400)
    assert (config["bos_token_id"], config["eos_token_id"]) == (2, 2)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {
        torch.bfloat16
    }
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer("a  b\n")["input_ids"]) == "a  b\n"
    assert tokenizer.eos_token_id == 2
    card = (out / "README.md").read_text()
    for line in ("library_name: transformers", "license: unknown", "the rule `schedule`"):
        assert line in card
    assert "trained for 1 of 2 steps on 64 tokens" in card
    assert "Training loss of step 1" in card


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder / "1/zero2", tmp_path / "run"))


def complaint(capsys, *arguments: object) -> str:
    assert main(["export", *map(str, arguments)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed.removeprefix("megadga export: ").rstrip("\n")


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(folder, tmp_path, capsys):
    run, out = copied(folder, tmp_path), tmp_path / "out"
    checkpoints = run / "checkpoints"
    assert complaint(capsys, tmp_path, out) == (
        f"{tmp_path}: expected the output folder of a run, found no {tmp_path}/config.yaml"
    )
    assert complaint(capsys, run, out, "--step=3") == (
        f"--step: expected one of the checkpoints in {checkpoints}, of the steps 1, 2, found 3"
    )
    assert complaint(capsys, run, checkpoints) == (
        f"{checkpoints}: expected a new or empty folder, found latest in it"
    )
    assert complaint(capsys, run, out, "--max-shard-size=5") == (
        "--max-shard-size: expected a size such as 5GB or 500MB, found Unit '5' not supported. "
        "Supported units are TB, GB, MB, KB. Got '5'."
    )
    other = train_tokenizer(made_up_texts(50), vocab_size=300, prefix=tmp_path / "other")
    found = other.identity.fingerprint[:16]
    said = complaint(capsys, run, out, f"--tokenizer={other.path}")
    assert said.startswith(
        "--tokenizer: expected the file that the shards were built with (SHA-25"
    )
    assert said.endswith(f"found {other.path} ({found}...)")
    damaged = checkpoints / "step-00000002/mp_rank_00_model_states.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    said = complaint(capsys, run, out)
    assert said.startswith(f"{damaged}: expected the SHA-256 ")
    assert said.endswith("; the newest intact one before it is that of --step 1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.model", "run"]


def test_shards_without_their_tokenizer_need_it_named(folder, tmp_path, capsys):
    run, (kept,) = copied(folder, tmp_path), (folder / "shards").glob("tokenizer-*.model")
    moved = shutil.move(kept, tmp_path / "web.model")
    try:
        assert "--no-tokenizer, found neither" in complaint(capsys, run, tmp_path / "out")
        arguments = ["export", str(run), str(tmp_path / "out"), f"--tokenizer={moved}"]
        assert main(arguments) == 0
    finally:
        shutil.move(moved, kept)
    assert (tmp_path / "out/tokenizer.model").read_bytes() == kept.read_bytes()


def test_what_an_interrupted_export_left_is_replaced(folder, tmp_path):
    left = tmp_path / ".out.exporting" / "folder"
    left.mkdir(parents=True)
    (left / "model-00001-of-00009.safetensors").write_bytes(b"cut")
    (tmp_path / "out").mkdir()

    export_run(folder / "1/zero2", tmp_path / "out", ExportOptions(with_tokenizer=False))

    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").glob("model*")] == ["model.safetensors"]


def loss_of(folder: Path, tokens: torch.Tensor) -> float:
    """The mean loss of the model in a folder."""
    model, windows = (
        AutoModelForCausalLM.from_pretrained(folder),
        tokens.view(-1, tokens.shape[-1]),
    )
    with torch.no_grad():
        logits = model(windows[:, :-1]).logits
    return float(torch.nn.functional.cross_entropy(logits.mT, windows[:, 1:]))


def test_a_run_from_an_exported_model_or_another_run_begins_with_its_loss(folder):
    work = folder / "2"
    for name in ("zero1", "zero3", "zero2-untied-bf16", *OF_TRANSFORMERS):
        export_run(work / name, work / "exported" / name)
    export_run(work / "zero1", work / "exported" / "first", ExportOptions(step=1))
    path = "model={type: hugging_face, path: exported/%s, sequence_length: 16}"
    starts = {
        "zero1": {
            "path-3": stage(3, path % "zero1"),
            "folder-2": stage(2, "model.initial_weights=exported/zero1"),
            "run-3": stage(3, "model.initial_weights=zero1"),
        },
        "first": {
            "checkpoint-2": stage(2, "model.initial_weights=zero1/checkpoints/step-00000001"),
        },
        "zero2-untied-bf16": {
            "rows-3": stage(
                3, UNTIED, "model.vocabulary_size=420", "model.initial_weights=zero2-untied-bf16"
            ),
        },
        "qwen3": {
            "qwen3-path-2": stage(2, path % "qwen3"),
            "qwen3-run-3": stage(3, QWEN, "model.initial_weights=qwen3"),
        },
        "mixtral": {"mixtral-path-2": stage(2, path % "mixtral")},
    }
    runs = {name: overrides for each in starts.values() for name, overrides in each.items()}
    worker = "tests.integration.workers.started_runs"
    job = run_job(on_ranks(worker, json.dumps(runs), ranks=2), work)
    assert job.code == 0, job.text

    for exported, names in starts.items():
        for name in names:
            first = torch.load(work / f"{name}.first.pt")
            expected = loss_of(work / "exported" / exported, first["tokens"])
            if exported == "zero2-untied-bf16":  # nine rows more share the probability
                assert first["loss"] == pytest.approx(expected, abs=0.1)
                assert first["loss"] > expected
            else:
                assert first["loss"] == pytest.approx(expected, abs=1e-6), name


def test_experts_are_exported_one_by_one_as_folders_have_them(folder, tmp_path):
    masters = torch.load(folder / "2" / "mixtral.weights.pt")

    export_run(folder / "2" / "mixtral", tmp_path / "out")

    weights = load_file(tmp_path / "out" / "model.safetensors")
    first = masters["model.model.layers.0.mlp.experts.down_proj"][0]
    assert weights["model.layers.0.block_sparse_moe.experts.0.w2.weight"].equal(first)


def test_weights_that_are_another_models_are_refused(folder):
    for change, message in (
        ("model.num_layers=3", "expected a weight blocks.2.attention_norm.weight"),
        ("model.intermediate_size=96", "feed_forward.gate.weight of shape (96, 32), found shape"),
        (QWEN, "expected a model of type hugging_face"),
    ):
        runs = {"refused": stage(1, change, "model.initial_weights=zero1")}
        job = run_job(
            alone("tests.integration.workers.started_runs", json.dumps(runs)), folder / "2"
        )
        assert job.code != 0
        assert message in job.text
