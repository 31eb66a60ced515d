# make demo                            the four stages on scikit-learn's digits, their scores, the gallery
# make run DATA=photos RUN=holiday     the same on a folder of your own, to out/holiday/gallery.html
# make test                            style, types and the whole test suite
# make mutants                         deliberate faults in the training code: the tests must catch each
# make torture                         kills, damage, hostile images and words, full disks: results/reliability.md
# make tables                          the tables of results in the texts, from the files under results/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= digits
SEED ?= 0

.PHONY: demo run test mutants torture tables install clean

demo: $(VENV)/installed
	$(BIN)/python simclr.py --run $(RUN) --seed $(SEED)
	$(BIN)/python extract_features.py --run $(RUN)
	$(BIN)/python scan.py --run $(RUN) --seed $(SEED)
	$(BIN)/python selflabel.py --run $(RUN) --seed $(SEED)
	$(BIN)/python evaluate.py --run $(RUN)
	$(BIN)/python predict.py --run $(RUN) --gallery --out out/$(RUN)

# A folder from the first stage to the gallery. Training that is finished is not done again, and what was
# interrupted goes on. Also: INIT=resnet18 (weights to start from), MINUTES=60 (for the four stages
# together), CLUSTERS=12 (otherwise the number that choose_clusters.py recommends; a number that
# scan.py has begun with stays).
ifneq ($(filter run,$(MAKECMDGOALS)),)
ifeq ($(DATA),)
$(error make run: say which folder has the images: make run DATA=photos RUN=holiday)
endif
ifeq ($(and $(filter-out file,$(origin RUN)),$(RUN)),)
$(error make run: say how the run is to be called: make run DATA=photos RUN=holiday)
endif
ifneq ($(filter ~/%,$(firstword $(DATA))),)
override DATA := $(patsubst ~/%,$(HOME)/%,$(DATA))
endif
export DATA RUN INIT MINUTES CLUSTERS
endif
READ_NUMBER := import json, sys; print(json.load(open(sys.argv[1]))["recommended"])

run: $(VENV)/installed
	$(BIN)/python simclr.py --data "$$DATA" --run "$$RUN" $(if $(INIT),--init "$$INIT") $(if $(MINUTES),--minutes "$$MINUTES")
	$(BIN)/python extract_features.py --run "$$RUN"
	@set -e; \
	if [ -z "$$CLUSTERS" ] && [ ! -f "ckp/$$RUN/scan.json" ] \
	    && [ ! -f "ckp/$$RUN/scan.partial.json" ]; then \
	    $(BIN)/python choose_clusters.py --run "$$RUN"; \
	    CLUSTERS=$$($(BIN)/python -c '$(READ_NUMBER)' "ckp/$$RUN/clusters.json"); \
	fi; \
	$(BIN)/python scan.py --run "$$RUN" $${CLUSTERS:+--clusters "$$CLUSTERS"}
	$(BIN)/python selflabel.py --run "$$RUN"
	$(BIN)/python predict.py --run "$$RUN" "$$DATA" --gallery --out "out/$$RUN"

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal

mutants: $(VENV)/installed-dev
	$(BIN)/python -m tests.mutants

torture: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture

tables: $(VENV)/installed
	$(BIN)/python -m src_py.research.tables

install: $(VENV)/installed

$(VENV)/installed: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/pip install --quiet -r requirements-dev.txt -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV)

# The figures of the pages: see ablation.py for what is kept of each run.
.PHONY: cifar10 results-processes results-mining results-memory results-digits results-parts results-side-by-side results-folder \
    results-digits-long-tail results-fashion-mnist results-photos results-minutes

# CIFAR-10 within a budget, from a folder with train/<class>/ and test/<class>/:
# make cifar10 DATA=<folder> RECIPE=best MINUTES=25
# SIMCLR: more options of simclr.py. On a CPU the network of RECIPE=paper wants WIDTH=16.
RECIPE ?= best
SEEDS ?= 0
OUT ?= out/cifar10-$(MINUTES)min
cifar10: MINUTES ?= 25
cifar10: $(VENV)/installed
	$(BIN)/python ablation.py --preset cifar10 --data $(DATA) --recipes $(RECIPE) --seeds $(SEEDS) \
	    --simclr="--minutes $(MINUTES) $(if $(WIDTH),--width $(WIDTH)) $(SIMCLR)" --pixels --out $(OUT)

# What a second process on this machine gains.
results-processes: $(VENV)/installed
	$(BIN)/python -m src_py.research.process_speed results/processes.json

# The neighbor search among up to ten million rows, and the memory of each stage.
results-mining: $(VENV)/installed
	OMP_NUM_THREADS=2 $(BIN)/python benchmark.py --stage mining --sizes 10000,100000,1000000 \
	    --out results/mining-2-cpu-cores.json
	OMP_NUM_THREADS=2 $(BIN)/python benchmark.py --stage mining --sizes 10000000 \
	    --out results/mining-ten-million.json

results-memory: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m src_py.research.stage_memory results/memory.json 10000 100000
	OMP_NUM_THREADS=1 $(BIN)/python -m src_py.research.stage_memory results/memory-million.json 1000000

# The options of make demo with twenty seeds, on one thread and on two.
TWENTY := 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19
results-digits: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --preset digits --recipes best --seeds $(TWENTY)
	OMP_NUM_THREADS=2 $(BIN)/python ablation.py --preset digits --recipes best --seeds $(TWENTY) \
	    --out results/digits-2-threads

# Both recipes with five seeds, and what each part of the best one is worth.
results-parts: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --preset digits --seeds 0,1,2,3,4 --out results/parts \
	    --variants no-mutual,no-components,no-prototypes,no-heads-first,no-reliable,no-teacher

# A short schedule for both recipes: digits in colour at 16 px, CIFAR-10's views.
results-side-by-side: $(VENV)/installed
	$(BIN)/python -m src_py.research.digit_folders split out/digits-tree
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --preset cifar10 --data out/digits-tree --device cpu \
	    --recipes paper,best --variants resnet18,strong-neighbors --seeds 0,1,2 --out results/side-by-side \
	    --simclr="--image-size 16 --channels 3 --width 16 --epochs 20 --batch-size 128 --precision float32" \
	    --scan="--epochs 10 --batch-size 128 --learning-rate 1e-3" \
	    --selflabel="--epochs 10 --batch-size 250 --threshold 0.9 --learning-rate 1e-4"

# A folder of the 1,797 digits, no preset named, beside a Gaussian mixture on their pixels.
results-folder: $(VENV)/installed
	$(BIN)/python -m src_py.research.digit_folders whole out/digits-png
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --data out/digits-png --recipes best --seeds 0,1,2 \
	    --pixels --folder-labels --out results/digits-png

# Digits of which the most frequent is ten times as frequent as the rarest; the test set is balanced.
results-digits-long-tail: $(VENV)/installed
	$(BIN)/python -m src_py.research.digit_folders long-tail out/digits-long-tail
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --preset digits --data out/digits-long-tail --variants uneven,merged \
	    --seeds 0,1,2 --simclr="--image-size 16" --out results/digits-long-tail

# On one thread of a CPU within thirty minutes: 60,000 images at a quarter of the paper's width and 20 px.
results-fashion-mnist: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --preset fashion_mnist --recipes best --seeds 0,1 --pixels \
	    --simclr="--minutes 30 --width 16 --image-size 20 $(DATA:%=--data %)"

# Folders of photographs with weights that others trained, three seeds each, on one thread:
# make results-photos DATA=<folder with flowers12/, scenes15/ and trashnet/>
results-photos: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --data $(DATA)/flowers12 --recipes best --seeds 0,1,2 \
	    --simclr="--init efficientnet_lite0" --scan="--clusters 12" --out results/flowers12
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --data $(DATA)/scenes15 --recipes best --seeds 0,1,2 \
	    --simclr="--init efficientnet_lite0" --scan="--clusters 15" --out results/scenes15
	OMP_NUM_THREADS=1 $(BIN)/python ablation.py --data $(DATA)/trashnet --recipes best --seeds 0,1,2 \
	    --simclr="--init efficientnet_lite0" --scan="--clusters 6" --folder-labels --out results/trashnet
	OMP_NUM_THREADS=1 $(BIN)/python -m src_py.research.ten_corrections trashnet-best-seed0 results/trashnet/corrections.json
	rm -f results/flowers12/*/*/contact_sheet.png results/scenes15/*/*/contact_sheet.png \
	    results/trashnet/*/*/contact_sheet.png  # whose photos are not ours to pass on

# Accuracy against minutes, for the four stages together, of both networks, and of the compact one by SGD, to
# results/minutes/<set>/<minutes>/ and a picture; on one thread with OMP_NUM_THREADS=1. With all of the minutes
# it takes 16 hours a seed; what is done is not done again, and SETS=digits MINUTES="3 10" takes a part of it:
# make results-minutes DATA=<folder with train/<class>/ and test/<class>/> SEEDS=0,1
# Fashion-MNIST is downloaded, or read from the folder FASHION.
VARIANTS ?= compact,resnet18,sgd
SETS ?= digits fashion_mnist $(if $(DATA),cifar10)
minutes_digits := --preset digits
minutes_fashion_mnist = --preset fashion_mnist $(if $(FASHION),--data "$(FASHION)")
minutes_cifar10 = --preset cifar10 --data "$(or $(DATA),$(error make results-minutes: say which folder has CIFAR-10: DATA=cifar10))"
small_fashion_mnist := --image-size 20
small_cifar10 = --width $$(awk "BEGIN { print ($$minutes < 30) ? 16 : 32 }") --image-size 24
results-minutes: MINUTES ?= 3 10 30 60
results-minutes: $(VENV)/installed
	set -e; for minutes in $(MINUTES); do $(foreach set,$(SETS), \
	    $(BIN)/python ablation.py $(minutes_$(set)) --recipes "" --variants $(VARIANTS) --seeds $(SEEDS) \
	        --simclr="--minutes $$minutes $(small_$(set))" --out results/minutes/$(set)/$$minutes;) \
	done
	$(BIN)/python -m src_py.research.minutes_plot
