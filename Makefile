PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STUDY ?= quick
FITS ?= ../shared/fits
FOLDER := runs/$(STUDY)

.PHONY: study explain test check bench clean

# The tour of the project: install, sweep, fit, plan, final run, report. What is done is not done again: without a
# record newer than the report, its last lines are shown once more.
study: $(VENV)/.installed
	$(RUN) -m scaling.sweep -m sweeps=$(STUDY)
	@if [ -f $(FOLDER)/summary.txt ] && [ -z "$$(find $(FOLDER) -name record.json -newer $(FOLDER)/summary.txt)" ]; \
	then cat $(FOLDER)/summary.txt; else $(MAKE) --no-print-directory explain; fi

explain:
	$(RUN) -m analysis.fit runs=$(FOLDER) out=$(FOLDER)/law.json
	$(RUN) -m analysis.plan law=$(FOLDER)/law.json runs=$(FOLDER) flops_multiple=3
	$(RUN) -m scaling.final plan=$(FOLDER)/plan.yaml machine.threads=2
	$(RUN) -m analysis.report runs=$(FOLDER) > $(FOLDER)/summary.tmp && mv $(FOLDER)/summary.tmp $(FOLDER)/summary.txt
	@cat $(FOLDER)/summary.txt

test: $(VENV)/.installed-dev
	$(RUN) -m pytest

check: $(VENV)/.installed-dev
	$(RUN) -m ruff format --check . && $(RUN) -m ruff check . && $(RUN) -m pyright

bench: $(VENV)/.installed-dev
	$(RUN) benchmarks/fit.py $(FITS)/chinchilla_epoch245.csv --where "dropped_by_authors==0"
	$(RUN) benchmarks/coverage.py --repeats 60
	$(RUN) benchmarks/backtest.py
	$(RUN) benchmarks/train.py

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache

# pip, not uv: uv does not read pip's find-links settings and would take the CUDA build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
