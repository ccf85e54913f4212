# What only a checkout has: its environment, tests, checks and locks. The Makefile includes it.

PYTHON ?=
TORCH ?= auto
TIMM ?=
WORKERS ?= 2
AGAINST ?= main
BUILD ?=

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: test test-all report lint setup-dev wheel lock audit clean

test: setup-dev  ## the tests that CI runs (17 minutes on 2 cores; ARGS=--cov measures what they reach)
	@OMP_WAIT_POLICY=passive python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-all: setup-dev  ## every test, the slow ones too: fuzzing, kills, real photographs
	@OMP_WAIT_POLICY=passive python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

report: setup  ## figures and plots against main -> report/ (AGAINST=<revision>, BUILD=1 reproduces it first)
	@python scripts/report.py --against "$(AGAINST)" $(if $(BUILD),--build)

lint: setup-dev  ## ruff, mypy --strict, import-linter
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports

setup: .venv/.installed $(if $(TIMM),.venv/.installed-timm)

setup-dev: .venv/.installed-dev

# `.installed` holds the place of its environment, whose commands name it: one that was moved or copied is made anew.
MOVED := $(shell test ! -s .venv/.installed || test "$$(cat .venv/.installed)" = "$$(cd .venv && pwd -P)" || echo moved)
.PHONY: moved
moved: ;

# Each stands for a complete environment: written last, so that a broken installation is never taken for a whole one.
.venv/.installed: requirements.lock pyproject.toml scripts/setup.sh $(MOVED)
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" bash scripts/setup.sh

.venv/.installed-timm: locks/timm.lock .venv/.installed
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" TIMM=1 bash scripts/setup.sh

.venv/.installed-dev: requirements-dev.lock pyproject.toml scripts/setup.sh $(MOVED)
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" DEV=1 bash scripts/setup.sh

wheel: setup  ## dist/pawprint-*.whl: the library, the command and what `pawprint init` makes a project of
	@rm -rf build dist
	@uv build --quiet --wheel --no-build-isolation --out-dir dist
	@ls dist/*.whl

lock: setup  ## write the locks anew from pyproject.toml (ARGS=--upgrade for newer versions)
	@bash scripts/lock.sh $(ARGS)

audit: setup-dev  ## known holes in what is locked, from PyPI's advisories (needs a network that has them)
	@sed 's/===/==/' locks/torch-cuda.lock > .venv/torch.txt
	@pip-audit --strict --disable-pip --require-hashes -r requirements-dev.lock -r .venv/torch.txt -r locks/uv.lock

clean:  ## remove the environment; runs, models and photographs stay
	rm -rf .venv
