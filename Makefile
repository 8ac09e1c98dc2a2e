# Everything a newcomer needs: `make demo` and `make test` set up what is missing and then do their job.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-multihost lint format setup lock clean

demo: setup
	$(BIN)/tintype demo

# A worker process for every core that may be used, up to four: each takes about 1 GB. Arguments for pytest come in ARGS.
test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

# One after another: they measure a link. Only their files are read, since importing all tests takes 12 s.
test-multihost: setup
	$(BIN)/python -m pytest $$(grep -rl --include='test_*.py' 'mark\.multihost' tests) -m multihost \
	  -o "addopts=-ra --import-mode=importlib --strict-markers --strict-config" $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

# torch is pinned because torchvision must match it; everything else is the newest that fits.
lock:
	printf 'torch==2.15.0\ntorchvision==0.29.2\n' > $(VENV)/constraints.txt
	uv pip compile pyproject.toml --extra dev -c $(VENV)/constraints.txt --universal --python-version 3.11 \
	  --no-emit-index-url --no-annotate --no-header --generate-hashes -o requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
