"""DeepSpeed's features for large models that alignments are compared with float64 under."""

from collections.abc import Mapping

from tests.support.probe_cases import ProbeCase

QUICK: Mapping[str, ProbeCase] = {
    "ZeRO++ hpZ": ProbeCase("3-hpz", "fp32", "llama"),
    "fp16, ZeRO-2": ProbeCase("2", "fp16", "llama-checkpointed"),
}
"""Those of every run of the tests, which measures along ``v`` alone."""


THOROUGH: Mapping[str, ProbeCase] = {
    "parameters on the CPU": ProbeCase("3-parameters", "fp32", "llama-untied"),
    "parameters on the CPU, bf16": ProbeCase("3-parameters", "bf16", "llama"),
    "ZeRO++ hpZ, bf16": ProbeCase("3-hpz", "bf16", "llama-untied"),
    "ZeRO++ hpZ, checkpointed": ProbeCase("3-hpz", "fp32", "llama-checkpointed"),
    "fp16, ZeRO-0": ProbeCase("0", "fp16", "llama"),
    "fp16, ZeRO-1": ProbeCase("1", "fp16", "hf-llama"),
    "fp16, ZeRO-3": ProbeCase("3-released", "fp16", "llama-untied"),
    "fp16, offloaded": ProbeCase("2-offload", "fp16", "small"),
}
"""Those of ``make test-scale`` alone, which measures all along ``v / D`` and factors too."""
