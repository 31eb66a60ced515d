"""Words that no script was made for: answered, or refused in one line."""

import random
from pathlib import Path

from tests.torture.base import HELD, RUN, Verdict, copied, run

SCRIPTS = (
    "simclr", "moco", "extract_features", "scan", "selflabel", "choose_clusters", "evaluate",
    "predict", "label", "export", "benchmark", "ablation",
)  # fmt: skip
OPTIONS = (
    "--run", "--data", "--preset", "--recipe", "--epochs", "--batch-size", "--clusters", "--seed",
    "--temperature", "--minutes", "--width", "--projection-dim", "--image-size", "--learning-rate",
    "--weight-decay", "--evenness", "--ema-decay", "--threshold", "--reliable-share", "--neighbors",
    "--components", "--views", "--view-side", "--heads", "--init", "--words", "--augment.rotate",
    "--augment.flip", "--augment.crop-scale", "--merge", "--name", "--merge-to", "--port",
    "--unsure", "--review", "--sort", "--out", "--device", "--loading", "--seeds", "--lowest",
    "--highest", "--format", "--widths", "--sizes", "--stage", "--variants", "--simclr",
    "--nonsense", "-x", "--",
)  # fmt: skip
VALUES = (
    "nan", "inf", "-inf", "1e308", "1e-320", "-1", "0", "1", "0.5", "9" * 30, "9" * 5000, "²", "٣",
    "", " ", "'", '"', "a b", "x" * 300, "x" * 5000, "../up", "/", ".", "..", "~", "~nobody",
    "-", "--", "=", "=1+1", "\udcff", "\n", "\t", "\x1b[31m", "cat", "1,2", "3=cat", "3=", "=cat",
    "0x10", "1_000", "1.", "True", "None", "{}", "[]", "*", "$HOME", "%s", "{0}", "nul", "con",
    "photos", "mine", "auto", "cpu", "copy", "timm:", "timm:x@", "@", "efficientnet_lite0@nothing",
    "/dev/null", "/proc/self/mem",
)  # fmt: skip


def trial(base: Path, folder: Path, number: int) -> Verdict:
    drawn = random.Random(f"words {number}")
    folder = copied(base, folder)
    script = drawn.choice(SCRIPTS)
    words = [] if drawn.random() < 0.2 else list(RUN)
    for _ in range(drawn.randint(1, 3)):
        words.append(drawn.choice(OPTIONS))
        words += drawn.choices(VALUES, k=drawn.choice([0, 1, 1, 1, 2]))
    run(folder, script, *words, "--show-config")
    return HELD
