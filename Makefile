PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STUDY ?= quick
FITS ?= ../shared/fits
FOLDER := runs/$(STUDY)
WORKERS ?= 2
# One thread a process: the workers share the cores. Compiled tests are kept: to compile them takes 10 s a worker.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS)

.PHONY: study laws explain test quick long check docs bench clean

# The tour of the project: install, sweep, fit, plan, final run, report. What is done is not done again: without a
# record newer than the report, its last lines are shown once more.
study: $(VENV)/.installed
	$(RUN) -m scaling.sweep -m sweeps=$(STUDY)
	@if [ -f $(FOLDER)/summary.txt ] && [ -z "$$(find $(FOLDER) -name record.json -newer $(FOLDER)/summary.txt)" ]; \
	then cat $(FOLDER)/summary.txt; else $(MAKE) --no-print-directory explain; fi

# The laws of fine-tuning, reward model and PPO, and a final run whose later stages they set, with forecasts.
laws: $(VENV)/.installed
	$(RUN) -m scaling.sweep -m sweeps=base
	$(RUN) -m scaling.sweep -m sweeps=sft
	$(RUN) -m scaling.sweep -m sweeps=sft sft.method=lora sft.lr_fraction=0.1
	$(RUN) -m scaling.sweep -m sweeps=reward
	$(RUN) -m scaling.sweep -m sweeps=overoptimisation
	$(RUN) -m analysis.fit runs=runs/base out=runs/base/law.json
	$(RUN) -m analysis.fit runs=runs/sft form=finetuning_epochs where="method == 'full'" out=runs/sft/full.json
	$(RUN) -m analysis.fit runs=runs/sft form=finetuning_epochs where="method == 'lora'" out=runs/sft/lora.json
	$(RUN) -m analysis.fit runs=runs/reward form=reward_model_noiseless
	$(RUN) -m analysis.fit runs=runs/overoptimisation form=rl_overoptimisation_sizes points=updates \
		columns.params=reward_pairs where="kl < 25"
	$(RUN) -m analysis.plan law=runs/base/law.json runs=runs/base flops_multiple=3 \
		'sft.law=[runs/sft/full.json,runs/sft/lora.json]' sft.examples=0 \
		reward.law=runs/reward/law.json reward.pairs=8000 ppo.law=runs/overoptimisation/law.json ppo.episodes=4096
	$(RUN) -m scaling.final plan=runs/base/plan.yaml machine.threads=2
	$(RUN) -m analysis.report runs=runs/base

explain:
	$(RUN) -m analysis.fit runs=$(FOLDER) form=all out=$(FOLDER)/law.json
	$(RUN) -m analysis.plan law=$(FOLDER)/law.json runs=$(FOLDER) flops_multiple=3
	$(RUN) -m scaling.final plan=$(FOLDER)/plan.yaml machine.threads=2
	$(RUN) -m analysis.report runs=$(FOLDER) > $(FOLDER)/summary.tmp && mv $(FOLDER)/summary.tmp $(FOLDER)/summary.txt
	@cat $(FOLDER)/summary.txt

# Every test but the long ones: under 8 minutes on two cores.
test: $(VENV)/.installed-dev
	$(PYTEST) -m "not long and not bench"

# What one runs while editing, under a minute: no test of seconds, and one row of each table of cases.
quick: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow and not long and not alone and not slurm and not bench" --few

# Whole chains, killed sweeps, the real SLURM: what is too long for `make test`.
long: $(VENV)/.installed-dev
	$(PYTEST) -m "long and not bench"

check: $(VENV)/.installed-dev
	$(RUN) -m ruff format --check . && $(RUN) -m ruff check . && $(RUN) -m pyright
	$(VENV)/bin/lint-imports .importlinter

# The documentation site, in site/: reference pages are written from the code, every dead link is an error.
docs: $(VENV)/.installed-dev
	$(RUN) docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "open site/index.html"

bench: $(VENV)/.installed-dev
	$(RUN) benchmarks/fit.py $(FITS)/chinchilla_epoch245.csv --where "dropped_by_authors==0"
	$(RUN) benchmarks/intervals.py --repeats 60
	$(RUN) benchmarks/backtest.py
	$(RUN) benchmarks/comparing.py --repeats 40
	$(RUN) benchmarks/train.py

clean:
	rm -rf $(VENV) site *.egg-info .pytest_cache .ruff_cache

# pip, not uv: uv does not read pip's find-links settings and would take the CUDA build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[fast]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --no-deps axe-playwright-python # its axe.min.js alone
	touch $@
