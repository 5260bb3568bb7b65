# make demo, make test: either sets everything up by itself in .venv. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# DeepSpeed compiles its shared-memory op once, here, instead of into a cache that environments share.
export TORCH_EXTENSIONS_DIR := $(CURDIR)/$(VENV)/torch-extensions
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Modules are compiled when they are first imported; where bytecode may not be kept, every process
# compiles torch and DeepSpeed again, which takes 10 s of it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cluster test-faults test-scale lint format bench-sampler bench-revisions bench-reader \
	bench-prepare bench-selection bench-clusters bench-alignment bench-alignment-gpu bench-directions bench-overhead bench-logging bench-train \
	bench-train-gpu bench-plan scale-report plot-mixers plot-sensitivity docs-figures bench-report evidence evidence-clusters evidence-continued \
	evidence-quick evidence-report law-trial \
	gpu-kit gpu-check gpu-report clean

# What benches read, a file per domain: make bench-prepare CORPUS='text/*.jsonl.gz'; and what the
# mixture of bench-directions aligns to, with CORPUS: TARGET='text/target/qa.*.jsonl.gz'. Of evidence,
# the folder itself: make evidence CORPUS=text
CORPUS ?=
TARGET ?=

# Processes that tests run in; many a test starts several ranks of its own.
TEST_WORKERS ?= 4

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 24

setup: $(READY)  ## Create .venv with everything the demo and the tests need.

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) with $(PYTHON) (a few minutes, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "megadga needs Python 3.11 or newer, found " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# No bytecode: Python compiles what is imported, a small part of all that is installed.
	@$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@echo "Compiling DeepSpeed's shared-memory op"
	@$(BIN)/python -c 'from deepspeed.comm.torch import build_shm_op; build_shm_op()' > $(VENV)/ops.log 2>&1 \
		|| { cat $(VENV)/ops.log; exit 1; }
	@touch $@

demo: setup  ## Train on text found on this machine, with DGA and with uniform weights (5 minutes).
	@$(BIN)/megadga demo

test: setup  ## Run the tests (11 minutes on two cores).
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-cluster: setup  ## Train on real hosts and SLURM, of namespaces; as root, on Debian (20 minutes).
	@tests/cluster/install
	@MEGADGA_TEST_CLUSTER=1 $(BIN)/python -m pytest tests/cluster

test-faults: setup  ## Kill runs again and again, and train 10,000 steps on 1,000 domains (1 hour).
	@MEGADGA_TEST_FAULTS=1 $(BIN)/python -m pytest tests/faults tests/integration/test_elastic.py tests/integration/test_use.py

test-scale: setup  ## Test alignments under all of DeepSpeed's features for large models, and of more models (15 minutes).
	@MEGADGA_TEST_FAULTS=1 $(BIN)/python -m pytest tests/distributed/test_scale.py \
		tests/distributed/test_alignment.py::test_alignments_of_more_architectures_equal_float64_gradients

lint: setup  ## Check format, style, types and layers.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright --threads
	@$(BIN)/lint-imports

format: setup  ## Format the code and mend what can be mended automatically.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench-sampler: setup  ## Time batch plans for up to 262,144 domains; writes build/bench/sampler.json.
	@$(BIN)/python tools/bench_sampler.py

bench-revisions: setup  ## Time a resume that revises 262,144 domains; writes build/bench/revisions.json.
	@$(BIN)/python tools/bench_revisions.py

bench-reader: setup  ## Time reading against Megatron's datasets; writes build/bench/reader.json.
	@$(BIN)/python tools/bench_reader.py

bench-prepare: setup  ## Time building shards against encoding alone; writes build/bench/prepare.json.
	@$(BIN)/python tools/bench_prepare.py $(if $(CORPUS),--input '$(CORPUS)')

bench-selection: setup  ## Train on 30 % of CORPUS by influence on TARGET ('a.train.gz a.valid.gz'), density, at random; DGA over tiers.
	@$(BIN)/python tools/bench_selection.py --input '$(CORPUS)' --target $(TARGET)

bench-clusters: setup  ## Cluster a corpus into 64 and 4,096, and score it; writes build/bench/clusters.json.
	@$(BIN)/python tools/bench_clusters.py $(if $(CORPUS),--input '$(CORPUS)')

bench-alignment: setup  ## Time every probe against training; writes build/bench/alignment.json (15 minutes).
	@$(BIN)/python tools/bench_alignment.py

bench-alignment-gpu: setup  ## The same in bf16 with 125M and 350M parameters, on CUDA devices.
	@$(BIN)/python tools/bench_alignment.py --gpu

bench-directions: setup  ## Compare directions over a training run; writes build/bench/directions.*.
	@$(BIN)/python tools/bench_directions.py $(if $(CORPUS),--input '$(CORPUS)') $(if $(TARGET),--target '$(TARGET)')

bench-overhead: setup  ## Time training with DGA against training without; writes build/bench/overhead.json.
	@$(BIN)/python tools/bench_overhead.py

bench-logging: setup  ## Time what is logged, with and without monitors; writes build/bench/logging.json.
	@$(BIN)/python tools/bench_logging.py

bench-plan: setup  ## Compare predictions of `megadga plan` with engines on this CPU; writes build/bench/plan.json.
	@$(BIN)/python tools/bench_plan.py

bench-train: setup  ## Time training against Hugging Face's Llama in a plain loop; writes build/bench/train.json (at most 15 minutes).
	@$(BIN)/python tools/bench_train.py

bench-train-gpu: setup  ## The same with 125M and 350M parameters, on CUDA devices.
	@$(BIN)/python tools/bench_train.py --gpu

plot-mixers: setup  ## Draw docs/mixers.svg: how close each mixing rule comes to a known best mixture.
	@$(BIN)/python tools/plot_mixers.py

plot-sensitivity: setup  ## Draw docs/sensitivity.svg: what eta, T_r and beta do to DGA, with and without noise.
	@$(BIN)/python tools/plot_sensitivity.py

docs-figures: setup  ## Draw the figures of docs/report.md: three short runs on the demo's text (10 minutes, resumable).
	@$(BIN)/python tools/report_figures.py

bench-report: setup  ## Time a browser that draws a report over 4,096 domains, against loading plotly alone.
	@$(BIN)/python tools/bench_report.py

evidence: setup  ## Train configs/evidence/targets on real text, as docs/evidence has it, with CORPUS=folder; hours, resumable.
	@$(BIN)/python tools/run_evidence.py --corpus '$(CORPUS)' --recorded

evidence-clusters: setup  ## Train configs/evidence/clusters: 64 to 4,096 clusters of the same text, few specific examples.
	@$(BIN)/python tools/run_cluster_evidence.py --corpus '$(CORPUS)'

evidence-continued: setup  ## Train configs/evidence/continued: a model goes on for new targets, and is fine-tuned.
	@$(BIN)/python tools/run_continued_evidence.py --corpus '$(CORPUS)'

law-trial: setup  ## Train 24 proxies on the demo's text, and fit a law of mixtures to them; in build/law-trial (an hour of one core).
	@test -d runs/demo/shards || $(BIN)/megadga demo
	@$(BIN)/megadga sweep configs/laws/sweep.yaml
	@$(BIN)/megadga sweep configs/laws/noise.yaml
	@$(BIN)/megadga law fit build/law-trial/m*-seed0/ --output build/law-trial/law.json
	@$(BIN)/megadga law fit build/law-trial/m*-seed0/ --output build/law-trial/exponential.json --law exponential
	@$(BIN)/megadga law fit build/law-trial/m*-seed0/ --output build/law-trial/linear.json --law linear
	@$(BIN)/megadga law fit build/law-trial/m*-seed*/ --output build/law-trial/noise.json

evidence-quick: setup  ## Seven short runs of them; a table in 15 minutes on two cores.
	@$(BIN)/python tools/run_evidence.py --corpus '$(CORPUS)' --quick

evidence-report: setup  ## Write the tables and figures of docs/evidence.md from docs/evidence.
	@$(BIN)/python tools/report_evidence.py

scale-report: setup  ## Write the tables of docs/scale.md.
	@$(BIN)/python tools/report_scale.py

gpu-kit: setup  ## Collect in .gpu-kit what a bare machine with CUDA needs for gpu-check.
	@$(BIN)/python tools/build_gpu_kit.py

gpu-check: setup  ## Check exactness, no trace, speed and memory on a CUDA device; writes build/gpu (8 minutes).
	@$(BIN)/python tools/build_gpu_kit.py --no-wheels
	@$(BIN)/python tools/gpu_check.py --out build/gpu

gpu-report: setup  ## Write docs/gpu.md from the records in docs/gpu.
	@$(BIN)/python tools/gpu_report.py

clean:  ## Remove what was set up and built; runs/ and shards/ stay.
	@rm -rf $(VENV) .gpu-kit build .pytest_cache .ruff_cache .hypothesis
