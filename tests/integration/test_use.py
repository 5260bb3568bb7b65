"""Trained models in use: their losses are those of training, and of lm-eval on the same text."""

import json
import math
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from megadga.cli import main
from megadga.data.manifest import read_manifest
from megadga.prepare.training import train_tokenizer
from megadga.use.generating import Decoding, encode_prompt, generate
from megadga.use.loading import CausalLm, Placement, load_causal_lm
from megadga.use.scorers.asking import answer_tokens
from megadga.use.sources import ModelName, find_model
from tests.support.jobs import alone, run_job
from tests.support.ranks import rank_environment
from tests.support.runs import write_run
from tests.support.scores import documents_of, scores_of
from tests.support.texts import made_up_texts, write_lines

RUN = """\
seed: 17
output: llama
model: {type: llama, preset: nano, sequence_length: 48}
data:
  domains: shards/domains
  specific: {target: {path: shards/specific/target, packing: examples}}
mixing: {type: static, weights: uniform}
training: {steps: 8, global_batch_size: 8, micro_batch_size: 4}
deepspeed: zero.json
evaluation: {interval: 4, sequences: 7}
checkpoint: {interval: 4, keep_last: 2}
"""
QWEN = """{type: hugging_face, sequence_length: 48, vocabulary_size: 416, config: {
    model_type: qwen3, hidden_size: 32, intermediate_size: 40, num_hidden_layers: 2, head_dim: 16,
    num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 64}}"""
RUNS = {
    "llama": ["deepspeed.zero_optimization.stage=2"],
    "qwen": ["output=qwen", f"model={QWEN}", "deepspeed.zero_optimization.stage=0"],
}
QUESTIONS = [
    {"question": "Which?", "choices": ["this one", "that", "é 中"], "answer": 1},
    {
        "question": "A question that is long. " * 8,
        "choices": ["no", "perhaps", "yes"],
        "answer": 0,
    },
]
TEXT = "neither short nor é"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two trained runs, the first one exported, and what they are evaluated on."""
    folder = tmp_path_factory.mktemp("use")
    for number in range(2):
        write_lines(folder / f"d{number}.jsonl", made_up_texts(60, seed=number))
    write_lines(folder / "target.jsonl", made_up_texts(60, seed=5))
    write_lines(folder / "text.jsonl", [TEXT])
    write_lines(folder / "more.jsonl.gz", made_up_texts(3, seed=6))
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    tokenizer = train_tokenizer(made_up_texts(100), vocab_size=400, prefix=folder / "small").path
    for inputs, name in (("d*.jsonl", "domains"), ("target.jsonl", "specific")):
        build = ["data", "build", "--input", str(folder / inputs), "--tokenizer", str(tokenizer)]
        output = ["--output", str(folder / "shards" / name), "--valid-fraction", "0.3"]
        assert main([*build, *output, "--workers", "1"]) == 0
    write_run(folder, RUN)
    for overrides in RUNS.values():
        arguments = ["train", "run.yaml", *(f"--set={each}" for each in overrides)]
        job = run_job(alone("megadga.cli", *arguments), folder)
        assert job.code == 0, job.text
    assert main(["export", str(folder / "llama"), str(folder / "exported")]) == 0
    return folder


@pytest.fixture(scope="module")
def model(folder) -> CausalLm:
    return load(folder / "llama")


def load(path: Path) -> CausalLm:
    name = str(path)
    return load_causal_lm(name, find_model(ModelName(name)), Placement(torch.device("cpu")))


def evaluate(capsys, model: Path, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", str(model), *arguments, "--json", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


def losses_of(told: dict[str, Any]) -> dict[str, float]:
    return {each["set"]: each["loss"] for each in told["sets"]}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("step", [4, 8])
def test_losses_are_those_that_the_run_logged(folder, capsys, run, step):
    lines = map(json.loads, (folder / run / "metrics.jsonl").read_text().splitlines())
    (logged,) = (one for one in lines if one["type"] == "evaluation" and one["step"] == step)

    told = evaluate(capsys, folder / run, "--step", str(step))

    assert told["step"] == step
    expected = {**logged["domains"], **logged["specific"]}
    assert losses_of(told) == pytest.approx(expected, abs=1e-6)


def test_standard_output_has_results_and_nothing_else_is_said(folder):
    # Not a warm process: DeepSpeed logs when it is imported.
    program = """
from megadga.cli import main

assert main(["evaluate", "qwen", "--json", "--limit", "1"]) == 0
assert main(["generate", "qwen", "--prompt", "neither", "--max-tokens", "2"]) == 0
assert main(["export", "qwen", "qwen-hf"]) == 0
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=folder, env=rank_environment(), capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    told, end = json.JSONDecoder().raw_decode(done.stdout)
    assert [each["windows"] for each in told["sets"]] == [1, 1, 1]
    *_, last = done.stdout[end:].splitlines()
    assert last.startswith("qwen-hf: step 8, ")


def test_a_run_and_its_exported_folder_score_alike(folder, capsys):
    sets = [
        *("--set", f"shards={folder}/shards/domains", "--split", "valid"),
        *("--set", f"text={folder}/more.jsonl.gz"),
    ]
    own = evaluate(capsys, folder / "llama", *sets)
    exported = evaluate(capsys, folder / "exported", *sets, "--batch-size", "3")
    given = evaluate(capsys, folder / "exported", *sets, "--tokenizer", f"{folder}/small.model")

    assert [each["set"] for each in own["sets"]] == ["shards/d0", "shards/d1", "text"]
    for one, *others in zip(own["sets"], exported["sets"], given["sets"], strict=True):
        for other in others:
            assert one["tokens"] == other["tokens"]
            assert one["bytes"] == other["bytes"]
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
    text = own["sets"][-1]
    assert text["bytes"] == sum(len(each.encode()) for each in made_up_texts(3, seed=6))
    assert text["bits_per_byte"] == pytest.approx(text["nats"] / math.log(2) / text["bytes"])
    assert text["perplexity"] == pytest.approx(math.exp(text["loss"]))


def test_bytes_of_decoded_tokens_are_those_of_the_documents(folder, capsys):
    documents = ["--set", f"text={folder}/more.jsonl.gz"]
    (whole,) = evaluate(capsys, folder / "llama", *documents)["sets"]
    (limited,) = evaluate(capsys, folder / "llama", *documents, "--limit", "1000")["sets"]

    assert (whole["bytes_of"], limited["bytes_of"]) == ("documents", "tokens")
    assert whole | {"bytes_of": "tokens"} == limited


def test_without_the_tokenizers_file_there_are_losses_but_no_bytes(folder, capsys):
    kept = list(folder.glob("shards/*/tokenizer-*.model"))
    assert len(kept) == 2
    for file in kept:
        file.rename(file.with_suffix(".away"))
    try:
        told = evaluate(capsys, folder / "llama")
        documents = ["--set", f"text={folder}/text.jsonl"]
        assert main(["evaluate", str(folder / "llama"), *documents]) == 2
    finally:
        for file in kept:
            file.with_suffix(".away").rename(file)

    assert {each["bytes"] for each in told["sets"]} == {None}
    assert all(each["loss"] > 0.0 for each in told["sets"])
    assert "--tokenizer: expected the file that the shards of" in capsys.readouterr().err


def test_the_most_likely_token_is_taken_until_the_document_ends(model):
    prompt = encode_prompt(model, "the 🙂")
    pieces: list[str] = []

    found = generate(model, prompt, Decoding(10, temperature=0.0), write=pieces.append)

    expected = list(prompt)
    for _ in range(10):  # without transformers' cache
        logits = model.decoder.logits(torch.tensor([expected]))
        expected.append(int(logits[0, -1].argmax()))
    assert [*prompt, *found.tokens] == expected
    tokenizer = model.needed_tokenizer()
    assert prompt[0] == tokenizer.end
    assert tokenizer.decode(expected) == "the 🙂" + found.text == "the 🙂" + "".join(pieces)
    assert not found.ended
    longest = generate(model, prompt, Decoding(100, temperature=0.0))
    assert longest.ended or len(prompt) + len(longest.tokens) == 48  # as many as it reads
    module: Any = model.decoder.model
    module.generation_config.eos_token_id = expected[-1]
    ended = generate(model, prompt, Decoding(10, temperature=0.0))
    module.generation_config.eos_token_id = tokenizer.end
    assert ended.ended
    assert list(ended.tokens) == expected[len(prompt) : expected.index(expected[-1], len(prompt))]


def test_draws_depend_on_the_seed_alone(folder, capsys):
    arguments = ["generate", str(folder / "llama"), "--prompt", "the", "--max-tokens", "20"]
    capsys.readouterr()
    assert main([*arguments, "--num", "2", "--seed", "3"]) == 0
    told = capsys.readouterr()
    state = torch.get_rng_state()
    assert main([*arguments, "--seed", "4"]) == 0
    alone = capsys.readouterr().out

    first, second = told.out.split("--- 2 of 2, seed 4\n")
    assert second == alone
    assert first != f"--- 1 of 2, seed 3\n{alone}"
    assert torch.equal(torch.get_rng_state(), state)


TASKS = {
    "choices": """
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_bytes}}]
""",
    "rolling": """
dataset_kwargs: {{data_files: {{test: {folder}/text.jsonl}}}}
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
""",
}


@pytest.fixture(scope="module")
def harness(folder) -> dict[str, Any]:
    """What lm-eval writes about the exported folder: results, and log-likelihoods by task."""
    if find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed")
    tasks = folder / "tasks"
    tasks.mkdir()
    for name, text in TASKS.items():
        head = f"task: {name}\ndataset_path: json\ntest_split: test"
        (tasks / f"{name}.yaml").write_text(head + text.format(folder=folder))
    job = run_job(
        alone(
            *("lm_eval", "run", "--model", "hf", "--model_args", "pretrained=exported"),
            *("--tasks", ",".join(TASKS), "--include_path", "tasks", "--device", "cpu"),
            *("--batch_size", "2", "--log_samples", "--output_path", "results"),
        ),
        folder,
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HOME=str(folder / "cache"),
    )
    assert job.code == 0, job.text
    (results,) = folder.glob("results/exported/results_*.json")
    found: dict[str, Any] = {"results": json.loads(results.read_text())["results"]}
    for name in TASKS:
        (samples,) = folder.glob(f"results/exported/samples_{name}_*.jsonl")
        records = [json.loads(line) for line in samples.read_text().splitlines()]
        found[name] = [one["resps"] for one in sorted(records, key=lambda one: one["doc_id"])]
    return found


def test_lm_eval_finds_the_same_log_likelihoods_of_choices(folder, capsys, harness):
    file = str(folder / "questions.jsonl")
    own = evaluate(capsys, folder / "llama", "--multiple-choice", file)["multiple_choice"]

    theirs = [[float(choice[0][0]) for choice in resps] for resps in harness["choices"]]
    ours = [each["log_likelihoods"] for each in own["answers"]]
    assert np.array(ours) == pytest.approx(np.array(theirs), abs=1e-4)
    results = harness["results"]["choices"]
    assert own["accuracy"] == results["acc,none"]
    assert own["accuracy_per_byte"] == results["acc_bytes,none"]
    assert own["truncated"] == 3  # those of the long question, by lm-eval's rule


def test_lm_eval_finds_the_same_log_likelihood_of_a_text(folder, capsys, harness, model):
    (told,) = evaluate(capsys, folder / "llama", "--set", f"text={folder}/text.jsonl")["sets"]

    tokenizer = model.needed_tokenizer()
    ids = [tokenizer.end, *tokenizer.encode(TEXT), tokenizer.end]
    assert told["tokens"] == len(ids) - 1
    of_end = float(model.token_losses(np.array([ids]))[0, -1])  # which lm-eval leaves out
    (((theirs,),),) = harness["rolling"]
    assert told["nats"] - of_end == pytest.approx(-float(theirs), abs=1e-4)


@pytest.fixture
def scored(folder, tmp_path) -> Path:
    """A copy of the training domains, to be scored."""
    return Path(shutil.copytree(folder / "shards/domains", tmp_path / "domains"))


def score(shards: Path, scorer: str, *arguments: str, workers: str = "1") -> None:
    command = ["data", "score", str(shards), "--scorer", scorer, "--workers", workers]
    assert main([*command, *arguments]) == 0


def columns(shards: Path, name: str) -> dict[str, bytes]:
    return {str(path.relative_to(shards)): path.read_bytes() for path in shards.rglob(f"*{name}*")}


def test_a_document_scores_minus_its_mean_loss(folder, scored, model):
    score(scored, "perplexity", "--model", str(folder / "llama"), "--device", "cpu")

    first = documents_of(scored / "d0")[0]
    whole = [model.needed_tokenizer().end, *first]
    losses = [
        model.token_losses(np.array([whole[begin : begin + 49]])).ravel()
        for begin in range(0, len(first), 48)
    ]
    expected = -np.concatenate(losses).mean()
    assert scores_of(scored / "d0", "perplexity")[0] == pytest.approx(expected, abs=1e-5)


def influence(folder: Path) -> list[str]:
    return [
        *("--model", str(folder / "llama"), "--step", "4", "--step", "8", "--device", "cpu"),
        *("--target", str(folder / "shards/specific/target"), "--target-documents", "5"),
    ]


def test_influence_is_weighted_by_the_learning_rates_that_the_run_had_logged(
    folder, scored, tmp_path
):
    score(scored, "influence", *influence(folder))

    found = np.array(scores_of(scored / "d0", "influence"))
    assert (np.abs(found) < 1.0).all()
    (entry, *_) = read_manifest(scored / "d0").splits["train"]
    lines = map(json.loads, (folder / "llama/metrics.jsonl").read_text().splitlines())
    rates = {one["step"]: one["learning_rate"] for one in lines if one["type"] == "train"}
    assert f"rates {rates[4]:.6g} {rates[8]:.6g}, model" in entry.scores["influence"].scorer

    best = tmp_path / "best"
    select = ["data", "select", str(scored), str(best), "--scores", "influence", "--tiers", "2"]
    assert main(select) == 0
    assert main(["data", "verify", str(best), "--workers", "1"]) == 0
    tiers = [np.array(scores_of(best / f"d0-tier{n}", "influence")) for n in (1, 2)]
    assert tiers[0].min() >= tiers[1].max()
    (kept,) = best.glob("tokenizer-*.model")
    assert kept.read_bytes() == (folder / "small.model").read_bytes()


def gradient(model: CausalLm, document: list[int]) -> torch.Tensor:
    """The gradient of a document's mean loss, as one vector."""
    whole = [model.needed_tokenizer().end, *document]
    parameters = [parameter.requires_grad_(True) for parameter in model.decoder.parameters()]
    windows = [whole[begin : begin + 49] for begin in range(0, len(document), 48)]
    losses = [model.decoder(torch.tensor([window])).sum() for window in windows]
    found = torch.autograd.grad(torch.stack(losses).sum() / len(document), parameters)
    return torch.cat([each.flatten().double() for each in found])


def test_products_along_the_target_are_those_of_whole_gradients(folder, scored):
    name = ["--model", str(folder / "llama"), "--device", "cpu", "--similarity", "dot"]
    target = folder / "shards/specific/target"
    score(scored, "influence", *name, "--target", str(target), "--target-documents", "5")

    model = load(folder / "llama")
    direction = torch.stack([gradient(model, each) for each in documents_of(target)[:5]]).mean(0)
    for document, found in zip(
        documents_of(scored / "d1")[:3], scores_of(scored / "d1", "influence"), strict=False
    ):
        own = gradient(model, document)
        assert found == pytest.approx(
            float(own @ direction), abs=1e-5 * float(own.norm() * direction.norm())
        )


@pytest.mark.thorough
def test_influence_is_the_same_with_two_workers(folder, scored, tmp_path):
    again = Path(shutil.copytree(scored, tmp_path / "again"))
    score(scored, "influence", *influence(folder))
    score(again, "influence", *influence(folder), workers="2")

    assert columns(scored, "influence") == columns(again, "influence")
    assert len(columns(scored, "influence")) == 2


def test_an_instruct_models_answer_is_a_score(folder, scored):
    name = str(folder / "exported")
    prompt = folder / "prompt.txt"
    prompt.write_text("{document}?")
    score(scored, "ask-llm", "--model", name, "--device", "cpu", "--prompt", str(prompt),
          "--document-tokens", "20", "--batch-size", "3")  # fmt: skip

    tokenizer = AutoTokenizer.from_pretrained(name)
    text = (
        (made := load(folder / "llama")).needed_tokenizer().decode(documents_of(scored / "d0")[0])
    )
    shown = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)[:20]).strip()
    ids = tokenizer.encode(f"{shown}?")
    logits = made.decoder.logits(torch.tensor([ids]))[0, -1].detach().double()
    expected = logits.softmax(-1)[answer_tokens(tokenizer)].sum().log()
    assert scores_of(scored / "d0", "ask-llm")[0] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scorer", "density"], "--embedder: expected with --scorer density, found none"),
        (
            ["--scorer", "perplexity", "--model", "x", "--target", "y"],
            "--target: expected none with --scorer perplexity",
        ),
        (
            ["--scorer", "ask-llm", "--model", "llama"],
            "--model: expected an instruct model of transformers, found the run llama",
        ),
        (
            ["--scorer", "influence", "--model", "llama", "--target", "shards/domains"],
            "one domain",
        ),
        (
            ["--scorer", "perplexity", "--model", "llama", "--name", "a.b"],
            "--name: expected a name of letters, digits, _ and -, found 'a.b'",
        ),
    ],
)
def test_options_of_other_scorers_are_refused(
    folder, scored, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(folder)
    assert main(["data", "score", str(scored), "--workers", "1", *arguments]) == 2
    assert message in capsys.readouterr().err
