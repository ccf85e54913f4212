# make run | test | serve | ui: each sets up what it needs by itself. `make help` lists all.

PYTHON ?=
TORCH ?= auto
PHOTOS ?=
NAME ?=
PORT ?= 3000
UI_PORT ?= 5000
WORKERS ?= 2
AGAINST ?= main
BUILD ?=
PROFILE ?= all
GPU ?=

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: stack stack-down stack-reset help run test test-all report lint serve ui setup setup-dev lock audit clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: setup  ## photographs -> models -> champion -> Bento, and a table (PHOTOS=<zip, folder, URL or public set> NAME=<data set> TORCH=cpu|cuda)
	@pawprint run $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(NAME),--name "$(NAME)")

serve: setup  ## the champion on http://127.0.0.1:3000 (PORT=...)
	@bentoml serve --host 127.0.0.1 --port $(PORT)

ui: setup  ## the MLflow UI over this project's runs (UI_PORT=...)
	@pawprint ui --port $(UI_PORT)

stack: setup  ## a team's servers in containers, healthy (PROFILE=tracking|serving|all GPU=1); docs/operations.md
	@GPU="$(GPU)" deploy/stack.sh up "$(PROFILE)"

stack-down:  ## stop them; the data stays
	@deploy/stack.sh down

stack-reset:  ## stop them and delete the data, after asking
	@deploy/stack.sh reset

test: setup-dev  ## the tests that CI runs (at most 12 minutes on 2 cores)
	@OMP_WAIT_POLICY=passive python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow" --cov --cov-report=term:skip-covered $(ARGS)

test-all: setup-dev  ## every test, the slow ones too: fuzzing, kills, real photographs
	@OMP_WAIT_POLICY=passive python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

report: setup  ## figures and plots against main -> report/ (AGAINST=<revision>, BUILD=1 reproduces it first)
	@python scripts/report.py --against "$(AGAINST)" $(if $(BUILD),--build)

lint: setup-dev  ## ruff, mypy --strict, import-linter
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports

setup: .venv/.installed

setup-dev: .venv/.installed-dev

# Each stands for a complete environment: written last, so that a broken installation is never taken for a whole one.
.venv/.installed: requirements.lock pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" bash scripts/setup.sh

.venv/.installed-dev: requirements-dev.lock pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" TORCH="$(TORCH)" DEV=1 bash scripts/setup.sh

lock: setup  ## write the locks anew from pyproject.toml (ARGS=--upgrade for newer versions)
	@bash scripts/lock.sh $(ARGS)

audit: setup-dev  ## known holes in what is locked, from PyPI's advisories (needs a network that has them)
	@sed 's/===/==/' locks/torch-cuda.lock > .venv/torch.txt
	@pip-audit --strict --disable-pip --require-hashes -r requirements-dev.lock -r .venv/torch.txt -r locks/uv.lock

clean:  ## remove the environment; runs, models and photographs stay
	rm -rf .venv
