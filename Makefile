# make demo            train BEHRT on the embedded synthetic hospital and write a report
# make demo INPUT=DIR  the same on a folder of MIMIC-IV tables
# make test            run every test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INPUT ?=
DEMO := demo/$(if $(INPUT),$(notdir $(patsubst %/,%,$(INPUT))),synthetic)

.PHONY: demo test clean-demo
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("ehrjax needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# Of some 25,000 modules a few are used, and these are compiled when they are imported.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile -e

$(VENV)/.installed: setup.py | $(BIN)/python
	$(INSTALL) .
	@touch $@

$(VENV)/.installed-test: setup.py | $(BIN)/python
	$(INSTALL) '.[test]'
	@touch $@ $(VENV)/.installed

# A finished folder is kept: running the command again continues from it.
demo: $(VENV)/.installed
ifneq ($(INPUT),)
	@test -d '$(DEMO)/events' || $(BIN)/python -m ehrjax.prepare events --source=mimic-iv --input='$(INPUT)' --output='$(DEMO)/events'
	@test -d '$(DEMO)/tokens' || $(BIN)/python -m ehrjax.prepare tokens --config=configs/tokens/behrt.py --input='$(DEMO)/events' --output='$(DEMO)/tokens'
	$(BIN)/python -m ehrjax.train --config=configs/behrt.py:demo --workdir='$(DEMO)/run' --config.data.path='$(DEMO)/tokens'
else
	$(BIN)/python -m ehrjax.train --config=configs/behrt.py:demo --workdir='$(DEMO)/run'
endif
	@echo "The report is $(DEMO)/run/report/index.html"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

clean-demo:
	rm -rf demo
