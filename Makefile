# Every target makes the virtual environment that it needs; Python 3.10 or later is all it asks for.
PYTHON ?= python3
NEW_ENOUGH = import sys; sys.exit("Python 3.10 or later is needed: make PYTHON=..." if sys.version_info < (3, 10) else 0)

.PHONY: help test check docs reference demo test-browser test-ray test-torch test-frameworks test-kills test-versions faults soak mutants coverage clean

# The site's theme prints an advertisement otherwise.
export NO_MKDOCS_2_WARNING = 1

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

test: .venv/made  ## Run every check and print how many passed
	@.venv/bin/python scripts/check.py

check: .venv/made  ## Run format, lint, types, import contracts, spelling and the pages' build; under a minute
	@.venv/bin/python scripts/check.py --quick

docs: .venv/made  ## Build the pages of docs/ as a site, site/index.html; no network
	@.venv/bin/mkdocs build --strict --quiet && echo site/index.html

reference: .venv/made  ## Write the pages of docs/ that are made from the code
	@.venv/bin/python -m scripts.reference

demo: .venvs/demo/made  ## Train twice, backfill, and see both runs in MLflow; no account, no server
	@.venvs/demo/bin/python examples/demo/demo.py

test-browser: .venv/made  ## See a run in MLflow's own UI, and a report's page, in headless Chromium
	@.venv/bin/python -m pytest -m browser tests/store/test_ui.py tests/backfill/test_report_in_browser.py

test-torch: .venv/torch  ## Check torchtune's recipes and Flyte's Elastic workers, with torch on the CPU
	@.venv/bin/python -m pytest tests/integrations/torchtune tests/integrations/flyte/test_elastic.py

test-frameworks: .venvs/frameworks/made  ## Check programs of launchers and frameworks: torchrun, notebooks, Hugging Face, Lightning, …
	@.venvs/frameworks/bin/python -m pytest -n 2 -m frameworks tests/frameworks

test-ray: .venv/made  ## Check training, tuning and a backfill on small Ray clusters; after test-torch with Lightning, too
	@.venv/bin/python -m pytest -m ray_cluster tests/integrations/ray

test-kills: .venv/made  ## Kill backfills and copies twenty to thirty times each; make test does so less often
	@TEST_KILLS=all .venv/bin/python -m pytest -n 2 --dist loadfile -m kills tests/backfill tests/targets/wandb

test-versions: .venv/made  ## Check old and new wandb and mlflow; ARGS="0.31.0:3.1.4" for some pairs
	@.venv/bin/python -m scripts.test_versions $(ARGS)

faults: .venv/made  ## Inject at least 200 faults into training runs and count what is lost; ARGS="--seed 7 --only sigkill-helper"
	@.venv/bin/python -m faults $(ARGS)

soak: .venv/made  ## Log for ten minutes and watch memory and lag; ARGS="--minutes 1" for less
	@.venv/bin/python -m faults.soak $(ARGS)

mutants: .venv/made  ## Change the code in 60 small ways and see whether tests fail; ARGS="--seed 7 --only framing"
	@.venv/bin/python -m mutants $(ARGS)

COVERAGE_DATA = .coverage-data

coverage: .venv/made  ## Measure branch coverage by package, 90 % of the core at least; ARGS="tests/core" for some tests
	@rm -rf $(COVERAGE_DATA)
	@status=0; \
	.venv/bin/coverage run -m pytest -n 2 --dist loadfile -m "not browser and not ray_cluster and not frameworks" $(ARGS) || status=$$?; \
	.venv/bin/coverage combine --quiet && \
	.venv/bin/coverage json --quiet -o $(COVERAGE_DATA)/report.json && \
	.venv/bin/python scripts/coverage_by_package.py $(COVERAGE_DATA)/report.json $(if $(ARGS),,--fail-under 90) && \
	exit $$status

clean:  ## Remove the environments, the demo and what tools cache
	rm -rf .venv .venvs .demo site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache $(COVERAGE_DATA)

.venv/made: pyproject.toml
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --editable '.[dev]'
	@touch $@

.venv/torch: .venv/made
	.venv/bin/python -m pip install --quiet torch==2.13.0
	.venv/bin/python -m pip install --quiet --editable '.[torchtune]' flyteplugins-pytorch 'lightning>=2.4'
	@touch $@

# torch first, and alone: a build for the CPU that is at hand is then not replaced.
.venvs/frameworks/made: pyproject.toml
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	$(PYTHON) -m venv --clear .venvs/frameworks
	.venvs/frameworks/bin/python -m pip install --quiet torch==2.13.0
	.venvs/frameworks/bin/python -m pip install --quiet --editable '.[frameworks,test]'
	@touch $@

.venvs/demo/made: pyproject.toml
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	@echo "Installing the package, MLflow and wandb into .venvs/demo, which takes a minute or two the first time …"
	@$(PYTHON) -m venv --clear .venvs/demo
	@.venvs/demo/bin/python -m pip install --quiet --editable .
	@touch $@
