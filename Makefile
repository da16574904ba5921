# The two commands of the README are `make demo` and `make test`; both set up what they need by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN = OMP_NUM_THREADS=1 $(BIN)/python

.PHONY: demo test check prove bench format docs clean

demo: $(VENV)/.train
	$(BIN)/isoflop run flatness --out out/flatness

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 -n 2 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow and not browser" -n 2

# Long proofs: coverage of the intervals, error rates of the tests, many kills. Each writes results/proofs/NAME.json.
prove: $(VENV)/.dev
	$(RUN) -m tests.prove $(PROOFS)

bench: $(VENV)/.dev
	$(RUN) benchmarks/step.py
	$(RUN) benchmarks/fit.py

format: $(VENV)/.dev
	$(BIN)/ruff format src tests benchmarks examples
	$(BIN)/ruff check --fix src tests benchmarks examples

docs: $(VENV)/.dev
	$(BIN)/python docs/update.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# constraints.txt pins torch: a looser request would bring CUDA packages of several gigabytes to a CPU machine.
$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev,interop]' \
	  || echo "lm-eval, transformers and TensorBoard could not be installed; the tests that compare with them will skip" >&2
	@touch $@

clean:
	rm -rf $(VENV) out .pytest_cache .ruff_cache .mypy_cache
