.DELETE_ON_ERROR:
.PHONY: help run folds lit test test-all check notebooks kaggle bench address clean

PYTHON_IN = .venv/bin/python
PRESET ?= demo
RUN ?= $(PRESET)
FOLD_NUMBER = $(or $(FOLD),0)
PORT ?= 5432
HOST ?= 127.0.0.1
# Each test process computes with one thread: with more, the processes slow each other down.
TEST_PROCESSES ?= 2
PYTEST = OMP_NUM_THREADS=1 $(PYTHON_IN) -m pytest -n $(TEST_PROCESSES) --dist worksteal --durations=20

SHELL = /bin/bash -o pipefail
export TOKENIZERS_PARALLELISM ?= false

help: ## list the targets (this is the default)
	@echo "Usage: make TARGET [VARIABLE=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: .venv/.ready ## train one fold and print its scores: PRESET (demo), FOLD (0), RUN (the preset's name)
	@mkdir -p output/$(RUN)
	.venv/bin/papermill notebooks/02_fold_training.ipynb output/$(RUN)/02_fold$(FOLD_NUMBER).ipynb \
	  -p preset $(PRESET) -p fold $(FOLD_NUMBER) -r run $(RUN) --no-progress-bar --stdout-file /dev/stdout | cat
	@$(PYTHON_IN) -m utils report output/$(RUN)/02_fold$(FOLD_NUMBER).ipynb output/$(RUN)/fold-$(FOLD_NUMBER)

folds: .venv/.ready ## train all folds, or those of FOLD=0-2, and compare them: PRESET, RUN, ARGS="--seed 1,2"
	@$(PYTHON_IN) -m batch $(given) $(ARGS)

lit: .venv/.ready ## open a run in LIT until Ctrl-C: PRESET, RUN, DATA, WEIGHTS, TARGET, TEXTS, TEST, PORT, HOST
	@$(PYTHON_IN) -m utils lit -p preset $(PRESET) $(if $(filter-out $(PRESET),$(RUN)),-p run $(RUN)) \
	  $(if $(DATA),-p data "$(DATA)") $(if $(WEIGHTS),--weights "$(WEIGHTS)") \
	  $(if $(TARGET),--target "$(TARGET)") $(if $(TEXTS),--texts $(TEXTS)) \
	  $(if $(TEST),--test "$(TEST)") --port $(PORT) --host $(HOST)

test: .venv/.ready-dev check ## check the code and run the tests, as CI does; TEST_PROCESSES (2)
	$(PYTEST)

test-all: .venv/.ready-dev check ## also run the slow tests
	$(PYTEST) --full

check: .venv/.ready-dev ## lint, check formatting and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/shellcheck setup.sh .ci/run benchmarks/*.sh
	.venv/bin/mypy

# Nothing else writes the outputs that are committed.
notebooks: .venv/.ready ## execute the notebooks with the demo preset and save their outputs in place
	rm -rf output/demo
	cd notebooks && for notebook in [0-9]*.ipynb; do \
	  ../.venv/bin/jupyter nbconvert --to notebook --execute --inplace --log-level WARN \
	    --ExecutePreprocessor.record_timing=False $$notebook || exit 1; done

# The code as a dataset, and a folder per kernel for `kaggle kernels push`; notebook 02 has a kernel per fold.
kaggle: ## write what is pushed to Kaggle into output/kaggle/: KAGGLE_USERNAME, PRESET, FOLD
	@[ -n "$(KAGGLE_USERNAME)" ] || \
	  { echo "Say whose kernels these are: make kaggle KAGGLE_USERNAME=you" >&2; exit 1; }
	@$(MAKE) --silent --no-print-directory .venv/.ready
	@$(PYTHON_IN) -m batch.kaggle --user $(KAGGLE_USERNAME) $(given) $(ARGS)

# Takes more than an hour on two cores and needs an idle machine. With DATA=clear, or the path of a CSV with
# the same columns, the published loop takes some hours more.
bench: .venv/.ready-bench ## measure benchmarks/RESULTS.md again on this machine: DATA (sample)
	$(PYTHON_IN) -m benchmarks.throughput --data $(or $(DATA),sample) $(ARGS)
	$(PYTHON_IN) -m benchmarks.parts
	$(PYTHON_IN) -m benchmarks.parts --precision fp32
	$(PYTHON_IN) -m benchmarks.growth --data $(or $(DATA),sample)
	$(PYTHON_IN) -m benchmarks.quality --preset demo
	$(if $(filter-out sample,$(DATA)),$(PYTHON_IN) -m benchmarks.quality --preset clear --data $(DATA))
	$(PYTHON_IN) -m benchmarks.results

# PRESET, RUN and FOLD as options, as far as the caller set them.
given = $(if $(filter-out file,$(origin PRESET)),--preset $(PRESET)) \
  $(if $(filter-out file,$(origin RUN)),--run $(RUN)) $(if $(FOLD),--fold $(FOLD))

# pyproject.toml holds the address; the README's badges and the notebooks' clone command repeat it.
address: ## write the repository's address into every file that has it: REPOSITORY=owner/name
	@[ -n "$(REPOSITORY)" ] || { echo "Set the repository: make address REPOSITORY=owner/name" >&2; exit 1; }
	@old=$$(sed -n 's/^repository = "\(.*\)"/\1/p' pyproject.toml) && \
	  files="pyproject.toml README.md notebooks/*.ipynb" && \
	  sed -i.bak "s|$$old|$(REPOSITORY)|g" $$files && for file in $$files; do rm $$file.bak; done

clean: ## remove .venv, all runs in output/ and all caches
	rm -rf .venv output/*/ .pytest_cache .ruff_cache .mypy_cache

.venv/.ready: requirements.txt requirements-lit.txt constraints.txt setup.sh
	bash setup.sh
	@touch $@

.venv/.ready-dev: .venv/.ready requirements-dev.txt requirements-ray.txt requirements-export.txt
	bash setup.sh --dev
	@touch $@

.venv/.ready-bench: .venv/.ready requirements-bench.txt
	$(PYTHON_IN) -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt -c constraints.txt
	@touch $@
