# run: the main job on the demo preset. test: the tests, as CI runs them. test-all: everything, in full.
# folds: every fold, then what compares them. lit: the folds of RUN in LIT, for a browser. kaggle: folders to push to
# Kaggle. bench: benchmarks/RESULTS.md, measured here. address: write the repository's address wherever it belongs.
.DELETE_ON_ERROR:
.PHONY: run folds lit test test-all check notebooks kaggle bench address clean

PYTHON_IN = .venv/bin/python
PRESET ?= demo
RUN ?= $(PRESET)
PORT ?= 5432
HOST ?= 127.0.0.1
# Each with one thread: with more, two at a time slow each other down.
TEST_PROCESSES ?= 2

SHELL = /bin/bash -o pipefail
export TOKENIZERS_PARALLELISM ?= false

run: .venv/.ready
	@mkdir -p output/$(RUN)
	.venv/bin/papermill notebooks/02_fold_training.ipynb output/$(RUN)/02_fold$(or $(FOLD),0).ipynb \
	  -p preset $(PRESET) -p fold $(or $(FOLD),0) -r run $(RUN) --no-progress-bar --stdout-file /dev/stdout | cat
	@$(PYTHON_IN) -m utils.report output/$(RUN)/02_fold$(or $(FOLD),0).ipynb output/$(RUN)/fold-$(or $(FOLD),0)

lit: .venv/.ready
	@$(PYTHON_IN) -m utils.serve -p preset $(PRESET) $(if $(filter-out $(PRESET),$(RUN)),-p run $(RUN)) --port $(PORT) --host $(HOST)

test: .venv/.ready-dev check
	OMP_NUM_THREADS=1 $(PYTHON_IN) -m pytest -n $(TEST_PROCESSES) --dist worksteal

test-all: .venv/.ready-dev check
	OMP_NUM_THREADS=1 $(PYTHON_IN) -m pytest --full -n $(TEST_PROCESSES) --dist worksteal

check: .venv/.ready-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/shellcheck setup.sh .ci/run

# Writes the notebooks' committed outputs, from the demo preset; nothing else does.
notebooks: .venv/.ready
	rm -rf output/demo
	cd notebooks && for notebook in [0-9]*.ipynb; do \
	  ../.venv/bin/jupyter nbconvert --to notebook --execute --inplace --log-level WARN \
	    --ExecutePreprocessor.record_timing=False $$notebook || exit 1; done

# Every fold of PRESET, or those of FOLD, and notebooks 03 and 06 on them: make folds PRESET=clear FOLD=0-2 ARGS="--seed 1,2"
folds: .venv/.ready
	@$(PYTHON_IN) -m utils.batch $(asked) $(ARGS)

# Fills output/kaggle/: the code as a dataset, and folders that `kaggle kernels push` takes, one for each fold of FOLD.
kaggle:
	@[ -n "$(KAGGLE_USERNAME)" ] || { echo "Say whose kernels these are: make kaggle KAGGLE_USERNAME=you" >&2; exit 1; }
	@$(MAKE) --silent --no-print-directory .venv/.ready
	@$(PYTHON_IN) -m utils.kaggle_kernels --user $(KAGGLE_USERNAME) $(asked) $(ARGS)

# More than an hour on two cores, which should have nothing else to do. DATA: clear, or the path of a CSV with its columns,
# on which the published loop trains for hours more.
bench: .venv/.ready-bench
	$(PYTHON_IN) -m benchmarks.throughput --data $(or $(DATA),sample) $(ARGS)
	$(PYTHON_IN) -m benchmarks.parts
	$(PYTHON_IN) -m benchmarks.parts --precision fp32
	$(PYTHON_IN) -m benchmarks.growth --data $(or $(DATA),sample)
	$(PYTHON_IN) -m benchmarks.quality --preset demo
	$(if $(filter-out sample,$(DATA)),$(PYTHON_IN) -m benchmarks.quality --preset clear --data $(DATA))
	$(PYTHON_IN) -m benchmarks.results

# Of PRESET, RUN and FOLD what was given, as options.
asked = $(if $(filter-out file,$(origin PRESET)),--preset $(PRESET)) $(if $(filter-out file,$(origin RUN)),--run $(RUN)) \
  $(if $(FOLD),--fold $(FOLD))

# pyproject.toml has the address; badges, the README and the notebooks' clone command repeat it.
address:
	@[ -n "$(REPOSITORY)" ] || { echo "Say which: make address REPOSITORY=owner/name" >&2; exit 1; }
	@old=$$(sed -n 's/^repository = "\(.*\)"/\1/p' pyproject.toml) && files="pyproject.toml README.md notebooks/*.ipynb" && \
	  sed -i.bak "s|$$old|$(REPOSITORY)|g" $$files && for file in $$files; do rm $$file.bak; done

.venv/.ready: requirements.txt requirements-lit.txt constraints.txt setup.sh
	bash setup.sh
	@touch $@

.venv/.ready-dev: .venv/.ready requirements-dev.txt requirements-ray.txt
	bash setup.sh --dev
	@touch $@

.venv/.ready-bench: .venv/.ready requirements-bench.txt
	$(PYTHON_IN) -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt -c constraints.txt
	@touch $@

clean:
	rm -rf .venv output/*/ .pytest_cache .ruff_cache
