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

# The figures of the README. A run's results are its scores, its logs and its configurations.
define keep-results
mkdir -p results/$(2)
cp logs/$(1)/evaluation.json logs/$(1)/*.csv logs/$(1)/contact_sheet.png results/$(2)/
for stage in simclr extract_features scan selflabel; do \
    sed 's#"data": ".*/#"data": "#' ckp/$(1)/$$stage.json > results/$(2)/$$stage.json; done
endef

.PHONY: results-digits results-cifar10-short

# The demo with seeds 0, 1 and 2.
results-digits: $(VENV)/installed
	for seed in 0 1 2; do $(MAKE) demo RUN=digits-seed$$seed SEED=$$seed || exit 1; done
	$(call keep-results,digits-seed0,digits/seed0)
	$(call keep-results,digits-seed1,digits/seed1)
	$(call keep-results,digits-seed2,digits/seed2)

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
