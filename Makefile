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

# The figures of the README: see ablation.py for what is kept of each run.
.PHONY: cifar10 results-digits results-fashion-mnist results-cifar10-short

# CIFAR-10 within a budget, from a folder with train/<class>/ and test/<class>/:
# make cifar10 DATA=<folder> RECIPE=best MINUTES=25
RECIPE ?= best
MINUTES ?= 25
SEEDS ?= 0
WIDTH ?= $(shell $(BIN)/python -c "import torch; print(64 if torch.cuda.is_available() else 16)")
OUT ?= out/cifar10-$(MINUTES)min
cifar10: $(VENV)/installed
	$(BIN)/python ablation.py --preset cifar10 --data $(DATA) --recipes $(RECIPE) --seeds $(SEEDS) \
	    --simclr="--minutes $(MINUTES) --width $(WIDTH)" --pixels --out $(OUT)

# Both recipes with five seeds, and what each part is worth with two.
results-digits: $(VENV)/installed
	$(BIN)/python ablation.py --preset digits --seeds 0,1,2,3,4
	$(BIN)/python ablation.py --preset digits --recipes best --seeds 0,1 \
	    --variants moco,no-mutual,no-prototypes,no-heads-first,no-reliable,no-teacher

# A short schedule at a quarter of the network's width, for a machine without a GPU:
# make results-cifar10-short DATA=<folder with train/<class>/ and test/<class>/>
# Features of so few epochs do not bear the paper's strong views.
SHORT := --run cifar10-short
MILD := rand-augment-ops=1 cutout=6
results-cifar10-short: $(VENV)/installed
	$(BIN)/python simclr.py --preset cifar10 --data $(DATA) $(SHORT) --image-size 24 --width 16 \
	    --epochs 6 --batch-size 128 --temperature 0.2 --warmup-epochs 1
	$(BIN)/python extract_features.py $(SHORT)
	$(BIN)/python scan.py $(SHORT) --head-epochs 10 --epochs 1 $(MILD:%=--augment.%)
	$(BIN)/python selflabel.py $(SHORT) --epochs 1 --ema-decay 0.99 $(MILD:%=--strong-augment.%)
	$(BIN)/python evaluate.py $(SHORT) --pixels
	$(call keep-results,cifar10-short,cifar10-jpeg/short-cpu)
