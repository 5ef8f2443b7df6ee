# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint docs sanitize clean

demo: $(STAMP)
	$(RUN)/crystalformers predict examples/*.cif

test: $(STAMP) lint
	$(RUN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# The documentation as a site, in build/site; warnings and broken links are errors.
docs: $(STAMP)
	$(RUN)/mkdocs build --strict --quiet

# The compiled kernels with every memory access and undefined operation checked; minutes.
sanitize: $(STAMP)
	sh benchmarks/sanitize.sh

$(STAMP): pyproject.toml setup.py $(wildcard crystalformers/csrc/*.[ch])
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info crystalformers/csrc/_kernels*.so
