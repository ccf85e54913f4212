# make run | test | serve | ui: each sets up what it needs by itself. `make help` lists all.

PHOTOS ?=
NAME ?=
PORT ?= 3000
UI_PORT ?= 5000
PROFILE ?= all
GPU ?=

.PHONY: help run serve ui stack stack-down stack-reset setup
.DEFAULT_GOAL := help

# After Ctrl-C the command has said all: its shell lives on to end with 0, and make adds no line of its own.
RUN = @trap : INT;
STOPPED = || [ $$? -eq 130 ]

# A checkout has an environment of its own; a project of `pawprint init` takes the one that is active.
ifneq ($(wildcard scripts/checkout.mk),)
include scripts/checkout.mk
else
setup: ;
endif

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: setup  ## photographs -> models -> champion -> Bento, and a table (PHOTOS=<zip, folder, URL or public set> NAME=<data set> TORCH=cpu|cuda)
	$(RUN) pawprint run $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(NAME),--name "$(NAME)") $(STOPPED)

serve: setup  ## the champion on http://127.0.0.1:3000 (PORT=...)
	$(RUN) bentoml serve --host 127.0.0.1 --port $(PORT) $(STOPPED)

ui: setup  ## the MLflow UI over this project's runs (UI_PORT=...)
	$(RUN) pawprint ui --port $(UI_PORT) $(STOPPED)

stack: setup  ## a team's servers in containers, healthy (PROFILE=tracking|serving|all GPU=1); docs/operations.md
	@GPU="$(GPU)" deploy/stack.sh up "$(PROFILE)"

stack-down:  ## stop them; the data stays
	@deploy/stack.sh down

stack-reset:  ## stop them and delete the data, after asking
	@deploy/stack.sh reset
