# run: the main job on the demo preset. test: the tests, as CI runs them. test-all: everything, in full.
.DELETE_ON_ERROR:
.PHONY: run test test-all check notebooks clean

PYTHON_IN = .venv/bin/python
FOLD ?= 0
PRESET ?= demo
RUN ?= $(PRESET)

SHELL = /bin/bash -o pipefail
export TOKENIZERS_PARALLELISM ?= false

run: .venv/.ready
	@mkdir -p output/$(RUN)
	.venv/bin/papermill notebooks/02_fold_training.ipynb output/$(RUN)/02_fold$(FOLD).ipynb \
	  -p preset $(PRESET) -p fold $(FOLD) -r run $(RUN) --no-progress-bar --stdout-file /dev/stdout | cat
	@$(PYTHON_IN) -m utils.report output/$(RUN)/02_fold$(FOLD).ipynb output/$(RUN)/fold-$(FOLD)

test: .venv/.ready-dev check
	$(PYTHON_IN) -m pytest

test-all: .venv/.ready-dev check
	$(PYTHON_IN) -m pytest --full

check: .venv/.ready-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# Writes the notebooks' committed outputs, from the demo preset; nothing else does.
notebooks: .venv/.ready
	cd notebooks && for notebook in [0-9]*.ipynb; do \
	  ../.venv/bin/jupyter nbconvert --to notebook --execute --inplace --log-level WARN \
	    --ExecutePreprocessor.record_timing=False $$notebook || exit 1; done

.venv/.ready: requirements.txt constraints.txt setup.sh
	bash setup.sh
	@touch $@

.venv/.ready-dev: .venv/.ready requirements-dev.txt
	bash setup.sh --dev
	@touch $@

clean:
	rm -rf .venv output/*/ .pytest_cache .ruff_cache
