# make demo   the four stages on scikit-learn's digits, then the table of scores
# make test   style and the whole test suite
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= digits
SEED ?= 0

.PHONY: demo test install clean

demo: $(VENV)/installed
	$(BIN)/python simclr.py --run $(RUN) --seed $(SEED)
	$(BIN)/python extract_features.py --run $(RUN)
	$(BIN)/python scan.py --run $(RUN) --seed $(SEED)
	$(BIN)/python selflabel.py --run $(RUN) --seed $(SEED)
	$(BIN)/python evaluate.py --run $(RUN)

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

install: $(VENV)/installed

$(VENV)/installed: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/pip install --quiet -r requirements-dev.txt -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) ckp logs out

# A short schedule of a quarter of the network's width, for a machine without a GPU:
# make cifar10-short DATA=<folder with train/<class>/ and test/<class>/>
CIFAR10_RUN := cifar10-short

.PHONY: cifar10-short
cifar10-short: $(VENV)/installed
	$(BIN)/python simclr.py --preset cifar10 --data $(DATA) --run $(CIFAR10_RUN) --width 16 --epochs 8
	$(BIN)/python extract_features.py --run $(CIFAR10_RUN)
	$(BIN)/python scan.py --run $(CIFAR10_RUN) --head-epochs 10 --epochs 3 --learning-rate 5e-4
	$(BIN)/python selflabel.py --run $(CIFAR10_RUN) --epochs 3 --batch-size 256 --learning-rate 5e-4 \
	    --threshold 0.9 --ema-decay 0.99
	$(BIN)/python evaluate.py --run $(CIFAR10_RUN) --pixels
