# Everything runs from a virtual environment in .venv; nothing but `install` needs root.
# On Debian 12: apt-get install python3-venv gcc make

PYTHON ?= python3
PREFIX ?= /opt/dnsfilter
BINDIR ?= /usr/local/bin
RUN_ARGS ?=
TESTARGS ?=
BENCHARGS ?= --short
FUZZARGS ?=

PIP = .venv/bin/python -m pip --quiet --disable-pip-version-check

.PHONY: run test bench fuzz lint install clean
# Both stamps below install into one environment: never at once.
.NOTPARALLEL:

run: .venv/.run
	.venv/bin/dnsfilter run $(RUN_ARGS)

# Three at once, since most tests wait. Those marked slow, some minutes more: make test TESTARGS='-m slow'
test: .venv/.test
	.venv/bin/python -m pytest -n 3 --dist loadfile $(TESTARGS)

# Measures dnsfilter and, where they are installed, dnsdist and unbound: bench/README.md. Long lists: bench/scale.
bench: .venv/.run
	bench/run $(BENCHARGS)

# All targets of tests/fuzz for DNSFILTER_FUZZ_SECONDS (600): tests/fuzz/README.md.
fuzz: .venv/.test
	.venv/bin/python -m tests.fuzz.run $(FUZZARGS)

# The bench scripts have no ending to be found by, so they are named.
lint: .venv/.test
	.venv/bin/ruff check . bench/run bench/scale bench/soak bench/encrypted
	.venv/bin/ruff format --check . bench/run bench/scale bench/soak bench/encrypted
	.venv/bin/mypy
	.venv/bin/mypy bench/harness.py bench/lookups.py bench/run
	.venv/bin/mypy bench/harness.py bench/scale
	.venv/bin/mypy bench/harness.py bench/encrypted
	.venv/bin/mypy bench/soaking bench/soak
	.venv/bin/mypy curation/generate.py curation/measure.py

# A copy is built, so that root leaves no files in the tree and no older build/ gets into the package.
install:
	$(PYTHON) -m venv --clear $(PREFIX)
	set -e; copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	tar --exclude=./.git --exclude=./.venv --exclude=./build -cf - . | tar -xf - -C "$$copy"; \
	$(PREFIX)/bin/python -m pip --quiet --disable-pip-version-check install "$$copy"
	mkdir -p $(BINDIR)
	ln -sf $(PREFIX)/bin/dnsfilter $(BINDIR)/dnsfilter

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./.git -prune -o -name __pycache__ -prune -exec rm -rf {} +

# The stamps: pip runs again only when pyproject.toml has changed.
.venv/.run: pyproject.toml | .venv/bin/pip
	$(PIP) install -e .
	touch $@

.venv/.test: pyproject.toml | .venv/bin/pip
	$(PIP) install -e '.[test]'
	touch .venv/.run $@

.venv/bin/pip:
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo 'on Debian: apt-get install python3-venv' >&2; exit 1; }
