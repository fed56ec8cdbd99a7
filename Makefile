PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STUDY ?= quick
FITS ?= ../shared/fits

.PHONY: study test check bench clean

# The tour of the project: install, sweep, fit, plan, final run, report.
study: $(VENV)/.installed
	$(RUN) -m scaling.sweep -m sweeps=$(STUDY)
	$(RUN) -m analysis.fit runs=runs/$(STUDY) out=runs/$(STUDY)/law.json
	$(RUN) -m analysis.plan law=runs/$(STUDY)/law.json runs=runs/$(STUDY) flops_multiple=3
	$(RUN) -m scaling.final plan=runs/$(STUDY)/plan.yaml machine.threads=2
	$(RUN) -m analysis.report runs=runs/$(STUDY)

test: $(VENV)/.installed-dev
	$(RUN) -m pytest

check: $(VENV)/.installed-dev
	$(RUN) -m ruff format --check . && $(RUN) -m ruff check . && $(RUN) -m pyright

bench: $(VENV)/.installed-dev
	$(RUN) benchmarks/fit.py $(FITS)/chinchilla_epoch245.csv --where "dropped_by_authors==0"
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
