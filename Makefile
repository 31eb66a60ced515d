# make demo   the four stages on scikit-learn's digits, the table of scores, the gallery
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
	$(BIN)/python predict.py --run $(RUN) --gallery --out out/$(RUN)

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n auto

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
.PHONY: cifar10 results-digits results-digits-long-tail results-fashion-mnist results-cifar10-cpu

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

# Both recipes with five seeds, and what each part is worth.
results-digits: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --preset digits --seeds 0,1,2,3,4
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --preset digits --recipes best --seeds 0,1,2,3,4 \
	    --variants moco,no-mutual,no-prototypes,no-heads-first,no-reliable,no-teacher

# Digits of which the most frequent is ten times as frequent as the rarest; the test set is balanced.
results-digits-long-tail: $(VENV)/installed
	$(BIN)/python -m src_py.long_tail out/digits-long-tail
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --preset digits --data out/digits-long-tail --variants uneven,merged \
	    --seeds 0,1,2 --simclr="--image-size 16" --out results/digits-long-tail

# Both recipes on one thread of a CPU, the same schedule: 60,000 images at a quarter of the network's
# width and 20 px. Features of so few epochs do not bear strong views.
results-fashion-mnist: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --preset fashion_mnist --seeds 0,1 --pixels \
	    --simclr="--width 16 --image-size 20 --epochs 2 --batch-size 128 $(DATA:%=--data %)" \
	    --scan="--epochs 1 --images-per-epoch 30000 --augment.rand-augment-ops 1 --augment.cutout 4" \
	    --selflabel="--epochs 1 --images-per-epoch 30000 --batch-size 128 --strong-augment.rand-augment-ops 1 \
	        --strong-augment.cutout 4"

# Both recipes on one thread of a CPU within the same minutes, at a quarter of the width and 24 px:
# make results-cifar10-cpu DATA=<folder with train/<class>/ and test/<class>/>
results-cifar10-cpu: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --preset cifar10 --data $(DATA) --seeds 0,1 --pixels \
	    --out results/cifar10-jpeg \
	    --simclr="--minutes 30 --width 16 --image-size 24 --temperature 0.2" \
	    --scan="--augment.rand-augment-ops 1 --augment.cutout 6" \
	    --selflabel="--strong-augment.rand-augment-ops 1 --strong-augment.cutout 6"
