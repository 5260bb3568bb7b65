import re
from pathlib import Path

import pytest

from megadga.check import check
from megadga.config.loading import load_config
from megadga.data.manifest import read_manifest
from megadga.errors import ConfigError
from tests.support.runs import write_reference, write_run
from tests.support.shards import write_domain, write_sets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_sets(tmp_path, num_domains=3)


def report(folder: Path, *overrides: str, world_size: int | None = None) -> list[str]:
    return list(check(load_config(write_run(folder), overrides), world_size=world_size))


PAPER = "mixing.preset=paper"


def entry(lines: list[str], label: str) -> str:
    return next(line.removeprefix(label).strip() for line in lines if line.startswith(label))


def test_it_counts_tokens_and_steps(folder):
    assert entry(report(folder), "training") == "10 steps x 8 sequences x 8 tokens = 640 tokens"


def test_it_says_how_the_model_trains(folder):
    assert entry(report(folder), "deepspeed") == (
        "ZeRO stage 1, AdamW at a peak learning rate of 0.001, constant, "
        "gradients clipped to norm 1 (DeepSpeed's default)"
    )
    params = "{total_num_steps: auto, warmup_num_steps: 3, decay_num_steps: 4}"
    overrides = (
        "deepspeed.optimizer={type: SGD, params: {lr: 3e-4}}",
        "deepspeed.zero_optimization.stage=3",
        f"deepspeed.scheduler={{type: WarmupStableDecayLR, params: {params}}}",
        "deepspeed.gradient_clipping=0.5",
    )
    assert entry(report(folder, *overrides), "deepspeed") == (
        "ZeRO stage 3, SGD at a peak learning rate of 0.0003, scheduled by WarmupStableDecayLR "
        "over 10 steps (3 of warm-up, 4 of decay), gradients clipped to norm 0.5"
    )


@pytest.mark.parametrize(
    ("scheduler", "peak"),
    [
        ("{type: WarmupLR, params: {}}", "0.0003"),
        ("{type: WarmupLR, params: {warmup_max_lr: 0.01}}", "0.01"),
        ("{type: WarmupDecayLR, params: {total_num_steps: auto}}", "0.001"),
        ("{type: WarmupCosineLR, params: {total_num_steps: auto}}", "0.0003"),
        ("{type: OneCycle, params: {cycle_min_lr: 0.1, cycle_max_lr: 0.2}}", "0.2"),
        ("{type: LRRangeTest, params: {lr_range_test_step_size: 5}}", "0.003"),
        ("{type: StepLR, params: {step_size: 5}}", "0.0003"),
    ],
)
def test_the_peak_learning_rate_is_the_schedules(folder, scheduler, peak):
    rate = "deepspeed.optimizer.params.lr=3e-4"
    line = entry(report(folder, rate, f"deepspeed.scheduler={scheduler}"), "deepspeed")
    assert f"AdamW at a peak learning rate of {peak}, scheduled by" in line
    clipping = report(folder, "deepspeed.gradient_clipping=0")
    assert entry(clipping, "deepspeed").endswith("gradients not clipped")


def test_it_counts_the_parameters(folder):
    shown = entry(report(folder), "model")
    assert shown == "llama tiny, 795,776 parameters, 64 tokens in the vocabulary"


def test_the_size_of_a_trace_is_said_and_limited(folder):
    # 29 matrices of 16 x 16 numbers and 9 vectors of 16; 10 x (20 + 8 x 38 + 8 x (12 + 4 x 7,568))
    numbers = "7,568 numbers of each of 8 sequences a step"
    assert entry(report(folder, "trace={}"), "trace") == f"0.002426 GB in the end, {numbers}"
    assert not any(line.startswith("trace") for line in report(folder))
    with pytest.raises(
        ConfigError, match=r"trace.limit_gb: expected at least 0.002426, for 7,568"
    ):
        report(folder, "trace={limit_gb: 0.001}")


def test_the_probe_costs_its_sequences_a_training_sequence_each(folder):
    assert entry(report(folder, PAPER), "probe") == (
        "every 4 steps: (3 x 8 + 32) / (4 x 8) = 175.0% more sequences; "
        "directional: no domain's gradient is formed"
    )
    static = report(folder, "mixing={type: static, weights: uniform}")
    assert entry(static, "probe") == "none: the weights stay as they are"
    odm = report(folder, "mixing={type: odm, interval: 2}")
    assert entry(odm, "probe") == "none: the weights follow training's losses, every 2 steps"
    norms = report(folder, "mixing={type: gradient_norm, interval: 2}")
    assert entry(norms, "probe") == (
        "none: the weights follow the norms of the loss's gradient at the output, every 2 steps"
    )
    stages = "stages: [{step: 0, weights: uniform}]"
    schedule = report(folder, f"mixing={{type: schedule, {stages}}}")
    assert entry(schedule, "probe") == "none: the weights go by the step, every 1 step"


@pytest.mark.parametrize(
    ("overrides", "cost"),
    [
        (
            ["mixing.probe.type=sharded", "mixing.score=cosine"],
            (
                "(3 x 8 + 32) / (4 x 8) = 175.0% more sequences; "
                "sharded: 4 whole gradients per update"
            ),
        ),
        (
            ["mixing.score=cosine", PAPER],
            (
                "(3 x 8 x 2 + 32) / (4 x 8) = 250.0% more sequences; "
                "directional, with 3 whole gradients per update for the norms"
            ),
        ),
        (
            ["mixing={type: doge, interval: 4, step_size: 0.01}"],
            (
                "(3 x 8 x 2 + 24) / (4 x 8) = 225.0% more sequences; "
                "directional, with 3 whole gradients per update for the norms"
            ),
        ),
        (
            ["mixing.probe={direction: {rank: 8}, direction_interval: 4}", PAPER],
            (
                "(3 x 8 + 32 x 2 / 4) / (4 x 8) = 125.0% more sequences; "
                "directional: no domain's gradient is formed"
            ),
        ),
        (
            ["mixing.probe={direction: {rank: 8}, direction_interval: 4}"],
            (
                "(3 x 8 + 32 / 4) / (4 x 8) = 100.0% more sequences; "
                "directional: no domain's gradient is formed"
            ),
        ),
        (
            [],
            (
                "(8 / 10) / (4 x 8) = at most 2.5% more sequences; "
                "in flight: no domain's gradient is formed"
            ),
        ),
        (
            ["mixing.probe={type: in_flight, refresh_every: 6}"],
            (
                "(3 x 8 / 6 + 32) / (4 x 8) = at most 112.5% more sequences; "
                "in flight: no domain's gradient is formed"
            ),
        ),
    ],
)
def test_each_probe_says_what_it_reads_and_forms(folder, overrides, cost):
    assert entry(report(folder, *overrides), "probe") == f"every 4 steps: {cost}"


def test_without_an_interval_updates_are_as_frequent_as_their_cost_allows(folder):
    probe = entry(report(folder, "mixing={type: dga}", "training.steps=1000"), "probe")
    # 8 sequences in 10 updates, of 8 in a step, and 2 x 16 / 160 of the step: 0.3 of a step.
    assert probe.startswith("every 10 steps up to step 100, then every 30 steps: (8 / 10) / (30 x")
    assert "at most 0.3% more sequences" in probe
    once = entry(report(folder, "mixing={type: dga, overhead: 1.0}"), "probe")
    assert once.startswith("every 1 steps up to step 1, then every 1 steps: ")


TWO_SETS = "data.specific={a: {path: specific}, b: {path: specific}}"


@pytest.mark.parametrize(
    ("overrides", "cost"),
    [
        (
            [PAPER],
            (
                "(3 x 8 x 2 + 32 x 2 + 32 x 2 for losses) / (4 x 8) = 550.0% more sequences; "
                "directional: no domain's gradient is formed"
            ),
        ),
        (
            ["mixing.score=cosine", PAPER],
            (
                "(3 x 8 x 3 + 32 x 2 + 32 x 2 for losses) / (4 x 8) = 625.0% more sequences; "
                "directional, with 3 whole gradients per update for the norms"
            ),
        ),
        (
            [
                "mixing={type: grape, interval: 4, step_size: 1.0, task_step_size: 1.0}",
                "mixing.probe={type: sharded, specific_sequences: 4}",
            ],
            (
                "(3 x 8 x 2 + 4 x 2 + 4 x 2 for losses) / (4 x 8) = 200.0% more sequences; "
                "sharded: 8 whole gradients per update"
            ),
        ),
    ],
)
def test_each_of_several_specific_sets_costs_as_much_as_one(folder, overrides, cost):
    assert entry(report(folder, TWO_SETS, *overrides), "probe") == f"every 4 steps: {cost}"


def test_every_specific_set_is_reported(folder):
    told = entry(report(folder, TWO_SETS), "data")
    assert re.match(
        r"3 domains and the specific sets a \(\d+ sequences\), b \(\d+ sequences\), all by ", told
    )


def test_reweighting_says_where_it_costs_a_pass(folder):
    override = "training.loss_reweighting={temperature: 0.5}"
    more = "a forward pass more on each batch, a third of its time"
    what = "linupper at temperature 0.5"
    assert entry(report(folder, override), "reweighting") == (
        f"{what}: where a rank has several micro-batches per step, {more}"
    )
    assert entry(report(folder, override, world_size=2), "reweighting") == f"{what}: {more}"
    alone = report(folder, override, world_size=4)
    assert entry(alone, "reweighting") == f"{what}: no more passes"
    assert not any(line.startswith("reweighting") for line in report(folder))
    stages = "[{step: 0, temperature: 2}, {step: 1000, temperature: 1}]"
    falling = report(folder, f"training.loss_reweighting={{temperature: {stages}}}", world_size=4)
    assert entry(falling, "reweighting") == (
        "linupper at temperature 2 from step 0, 1 from step 1,000: no more passes"
    )


def test_a_reference_is_reported_with_what_every_rank_holds_of_it(folder):
    write_reference(folder / "reference", step=3)
    lines = report(folder, "mixing={type: doremi, reference: reference, interval: 5}")
    assert entry(lines, "reference") == (
        "reference/checkpoints/step-00000003 (llama tiny, 795,776 parameters on every rank): "
        "a forward pass on each batch"
    )
    assert entry(lines, "probe") == (
        "none: the weights follow training's losses above the reference's, every 5 steps"
    )


def test_the_specific_set_is_counted_as_it_is_packed(folder):
    told = entry(report(folder), "data")
    assert re.match(r"3 domains and the specific set target \(\d+ sequences\), all by ", told)
    examples = "data.specific={target: {path: examples, packing: examples}}"
    # 40 documents of 2, 9, 3, 40, 4, 10, 2, 17 and 6 tokens in turn; 386 of 68 x 8 are targets.
    assert entry(report(folder, examples), "data").startswith(
        "3 domains and the specific set target "
        "(40 examples in 68 sequences, 13 longer than one, 29.0% padding), all by "
    )


def test_dialogues_are_counted_by_their_trained_tokens(folder):
    chat = "data.specific={target: {path: chat, packing: chat}}"
    trained = read_manifest(folder / "chat").num_trained("train")
    lines = report(folder, chat)

    found = re.fullmatch(
        r"3 domains and the specific set target \(40 dialogues in (\d+) sequences, "
        r"(\d+) longer than one, (\d+) more without a trained token left out, "
        r"(\d+) of 426 tokens trained, [\d.]+% padding\), all by .*",
        entry(lines, "data"),
    )

    assert found is not None, entry(lines, "data")
    num_sequences, num_long, num_left_out, num_trained = map(int, found.groups())
    assert (num_sequences + num_left_out, num_long) == (68, 13)
    assert num_left_out > 0
    # The first token of a document is no target.
    assert trained is not None
    assert trained - 40 <= num_trained <= trained
    assert re.search(r"target \(\d+ of 426 tokens trained\)", entry(lines, "evaluation"))
    assert not any(line.startswith("warning:") and "dialogues" in line for line in lines)


def test_dialogues_that_are_read_as_texts_are_warned_of(folder):
    write_domain(folder / "domains" / "talk", seed=9, chat=True)
    sets = "evaluation.sets={more: {path: chat}}"
    lines = report(folder, "data.specific={target: {path: chat}}", sets)
    warnings = [line for line in lines if line.startswith("warning: ") and "dialogues" in line]
    assert [line.partition(": expected ")[2] for line in warnings] == [
        "chat, found stream: the loss is on all tokens of the dialogues",
        "chat, found stream: the loss is on all tokens of the dialogues",
        "chat, found stream for talk: the loss is on all tokens of the dialogues",
    ]
    assert "data.packing" in warnings[2]
    assert "data.specific.target.packing" in warnings[0]
    assert "evaluation.sets.more.packing" in warnings[1]


def test_domains_of_dialogues_are_told_by_their_trained_tokens(folder):
    write_domain(folder / "domains" / "talk", seed=9, chat=True, trained=0.0)
    manifest = read_manifest(folder / "domains" / "talk")
    trained, tokens = manifest.num_trained("train"), manifest.num_tokens("train")
    assert trained is not None

    lines = report(folder, "data.packing={talk: chat}")

    found = re.fullmatch(
        r"1 domain with ([\d.]+%) of their tokens trained; (\d+) of (\d+) windows without a "
        r"trained token left out",
        entry(lines, "dialogues"),
    )
    assert found is not None, entry(lines, "dialogues")
    assert found[1] == f"{trained / tokens:.1%}"
    assert 0 < int(found[2]) < int(found[3]) == (tokens - 1) // 8
    table = [line.split() for line in lines[lines.index("") + 1 :]]
    assert table[0][:4] == ["domain", "tokens", "trained", "held"]
    assert {row[0]: row[2] for row in table[1:5]} == {
        **dict.fromkeys(("d0", "d1", "d2"), "100.0%"),
        "talk": found[1],
    }
    assert not any(line.startswith("warning:") and "dialogues" in line for line in lines)
    # Its sequences differ in their numbers of targets: it is measured between steps.
    assert entry(lines, "probe").endswith("directional: no domain's gradient is formed")
    assert entry(report(folder), "probe").startswith("every 4 steps: (")


def test_ranks_are_validated_once_they_are_known(folder):
    assert entry(report(folder), "ranks") == (
        "any number that divides 4 (micro-batches of 2 sequences)"
    )
    assert entry(report(folder, world_size=2), "ranks") == "2 x 2 sequences x 2 accumulation steps"
    with pytest.raises(ConfigError, match=r"training\.micro_batch_size x ranks \(2 x 3\)"):
        report(folder, world_size=3)


def test_evaluation_says_what_is_held_out(folder):
    assert entry(report(folder), "evaluation") == (
        "every 500 steps: 3 of 3 domains, target; up to 64 sequences each, 256 in all"
    )
    assert entry(report(folder, "evaluation=null"), "evaluation") == "none"


def test_what_is_excluded_is_counted(folder):
    write_domain(folder / "domains" / "d3", seed=3, num_documents=1)
    tokens = read_manifest(folder / "domains" / "d3").num_tokens("train")
    overrides = ("data.too_short=leave_out", "model.sequence_length=32")
    assert entry(report(folder, *overrides), "left out") == (
        f"1 domain too short for a window, with {tokens} tokens in all"
    )
    (folder / "h.json").write_text('{"d0": 1, "d1": 1, "d2": 1, "d3": 1}')
    shown = report(folder, *overrides, "mixing={type: importance, histogram: h.json}")
    assert entry(shown, "left out").endswith("tokens in all and 25.00% of the histogram")
    assert not any(line.startswith("left out") for line in report(folder))


def test_epochs_follow_from_the_initial_weights(folder):
    weights = "{d0: 0.5, d1: 0.25, d2: 0.25}"
    lines = report(folder, f"mixing={{type: static, weights: {weights}}}")
    tokens, _, weight, epochs = entry(lines, "d0").split()
    sequences = (int(tokens) - 1) // 8
    assert weight == "0.5000"
    assert epochs == f"{0.5 * 10 * 8 / sequences:.3f}"


def test_a_cap_moves_epochs_to_the_other_domains(folder):
    mixing = "mixing={type: static, weights: {d0: 0.9, d1: 0.05, d2: 0.05}}"
    lines = report(folder, mixing, "sampling.max_epochs=0.5")
    drawn = 0.0
    for name in ("d0", "d1", "d2"):
        tokens, _, _, epochs = entry(lines, name).split()
        assert float(epochs) <= 0.5
        drawn += float(epochs) * ((int(tokens) - 1) // 8)
    assert drawn == pytest.approx(80, abs=0.2)  # epochs are shown with three digits


def test_of_many_domains_the_most_repeated_are_listed(folder):
    for index in range(3, 45):
        write_domain(folder / "domains" / f"d{index}", seed=index, num_documents=index)
    lines = report(folder)
    table = "\n".join(lines).split("\n\n")[1].split("\n")
    assert len(table) == 1 + 40 + 1
    assert re.fullmatch(r"and 5 domains more with at most \d\.\d+ epochs", table[-1])
    excluded = float(table[-1].split()[-2])
    assert excluded <= min(float(row.split()[-1]) for row in table[1:-1])


FEW = ("mixing.probe.specific_sequences=4", "mixing.probe.sequences_per_domain=2")
"""Measurements that the sets suffice for."""


def warnings(folder: Path, *overrides: str) -> list[str]:
    lines = report(folder, *FEW, *overrides)
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


def test_a_run_that_can_be_meant_gets_no_warning(folder):
    assert warnings(folder) == []


@pytest.mark.parametrize(
    ("override", "warning"),
    [
        (
            "mixing.interval=11",
            (
                "mixing.interval: expected at most training.steps (10), or the weights never "
                "move, found 11"
            ),
        ),
        (
            "mixing.warmup=2",
            (
                "mixing.warmup: expected fewer than the run's updates (2), or the weights never "
                "move, found 2"
            ),
        ),
        (
            "mixing.probe.specific_sequences=1000000",
            (
                "mixing.probe.specific_sequences: expected at most {specific}, the sequences of "
                "target, found 1000000"
            ),
        ),
        (
            "mixing.probe.sequences_per_domain=1000000",
            (
                "mixing.probe.sequences_per_domain: expected at most {least}, the sequences of "
                "{name}, found 1000000 (2 more domains have too few)"
            ),
        ),
        (
            "checkpoint.interval=11",
            (
                "checkpoint.interval: expected at most training.steps (10): there is one, at the "
                "end, found 11"
            ),
        ),
        (
            "evaluation.interval=20",
            (
                "evaluation.interval: expected at most training.steps (10): there is one, at the "
                "end, found 20"
            ),
        ),
        (
            "training.loss_reweighting={warmup: 10}",
            (
                "training.loss_reweighting.warmup: expected less than training.steps (10), or "
                "losses never count, found 10"
            ),
        ),
        (
            (
                "training.loss_reweighting={temperature: [{step: 0, temperature: 2}, "
                "{step: 10, temperature: 1}]}"
            ),
            (
                "training.loss_reweighting.temperature.1.step: expected less than training.steps "
                "(10), or it never holds, found 10"
            ),
        ),
        (
            "deepspeed.scheduler={type: WarmupCosineLR, params: {total_num_steps: 20}}",
            (
                'deepspeed.scheduler.params.total_num_steps: expected "auto", or training.steps '
                "(10), found 20"
            ),
        ),
        (
            "deepspeed.scheduler={type: WarmupLR, params: {warmup_num_steps: 10}}",
            (
                "deepspeed.scheduler.params.warmup_num_steps: expected less than training.steps "
                "(10), or the peak rate is never reached, found 10"
            ),
        ),
        (
            "deepspeed.optimizer.params.lr=3.0",
            "deepspeed.optimizer.params.lr: expected at most 0.1 for AdamW, found 3",
        ),
        (
            "deepspeed.optimizer.params.lr=0",
            (
                "deepspeed.optimizer.params.lr: expected a number above 0, or the model does not "
                "train, found 0"
            ),
        ),
    ],
)
def test_what_can_hardly_be_meant_is_reported_with_its_key(folder, override, warning):
    specific = re.search(r"target \((\d+) sequences\)", entry(report(folder), "data"))
    assert specific is not None
    sizes = [(int(entry(report(folder), name).split()[0]) - 1) // 8 for name in ("d0", "d1", "d2")]
    expected = warning.format(
        specific=specific[1], least=min(sizes), name=f"d{sizes.index(min(sizes))}"
    )
    place = "override 3"
    assert warnings(folder, override) == [f"{place}: {expected}"]


def test_other_rules_that_begin_too_late_are_reported(folder):
    stages = "stages: [{step: 0, weights: uniform}, {step: 10, weights: uniform}]"
    lines = report(folder, f"mixing={{type: schedule, {stages}}}")
    assert lines[-1] == (
        "warning: override 1: mixing.stages.1.step: expected less than training.steps (10), or "
        "the stage never begins, found 10"
    )
    lines = report(folder, "mixing={type: odm, warmup: 10}")
    assert lines[-1] == (
        "warning: override 1: mixing.warmup: expected less than training.steps (10), or the "
        "weights never move, found 10"
    )


def test_a_rate_that_the_schedule_replaces_is_reported(folder):
    params = "{total_num_steps: auto, warmup_num_steps: 2}"
    decay = f"deepspeed.scheduler={{type: WarmupDecayLR, params: {params}}}"
    assert warnings(folder, decay, "deepspeed.optimizer.params.lr=3e-4") == [
        (
            "override 4: deepspeed.optimizer.params.lr: expected the peak rate of the "
            "WarmupDecayLR schedule (0.001), which takes its place, found 0.0003"
        )
    ]


def test_domains_that_are_repeated_over_and_over_are_reported(folder):
    (warning,) = warnings(folder, "training.steps=100000")
    assert re.fullmatch(
        r"run\.yaml:1: sampling\.max_epochs: expected at most 16 epochs of a domain at the first "
        r"weights \(a cap holds it\), found [\d.e+]+ of d\d \(and 2 more domains beyond 16\)",
        warning.replace(f"{folder}/", ""),
    )


def test_text_that_is_read_twice_is_reported(folder):
    listed = "data.domains=[{name: a, path: domains/d0}, {name: b, path: domains/../domains/d0}]"
    assert warnings(folder, listed) == [
        (
            "override 3: data.domains.1.path: expected another folder than other domains have, "
            "found a's"
        )
    ]
    aligned = "data.specific={target: {path: domains/d1}}"
    assert [each for each in warnings(folder, aligned) if "specific_sequences" not in each] == [
        (
            "override 3: data.specific.target.path: expected a folder that is no training domain, "
            "found the domain d1"
        )
    ]


@pytest.mark.parametrize(
    ("settings", "place", "expected"),
    [
        (
            {"tensor_parallel": {"autotp_size": 2}},
            "zero.json:12: deepspeed.tensor_parallel",
            "none, or it switched off (each rank has a part of every matrix and the whole",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            "zero.json:5: deepspeed.zero_optimization.offload_param.device",
            "'none' or 'cpu' (alignments have not been tested under another), found 'nvme'",
        ),
    ],
)
def test_what_is_refused_of_deepspeed_is_reported_with_its_place(
    folder, settings, place, expected
):
    config = load_config(write_run(folder, **settings), ())

    with pytest.raises(ConfigError) as error:
        list(check(config))

    assert f"{place}: expected {expected}" in str(error.value)


def test_what_only_probes_refuse_does_not_matter_without_one(folder):
    offload = "deepspeed.zero_optimization={stage: 3, offload_param: {device: nvme}}"

    assert report(folder, offload, "mixing={type: uniform}")
    with pytest.raises(ConfigError, match="each rank has other experts"):
        report(folder, "deepspeed.expert_parallel={enabled: true}", "mixing={type: uniform}")


def test_an_output_that_cannot_be_made_is_refused(folder):
    with pytest.raises(ConfigError, match="override 1: output: expected a folder that can be"):
        report(folder, "output=zero.json/deeper")
