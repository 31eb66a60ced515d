"""Deliberate faults in the training code, each of which the tests must catch.

    python -m tests.mutants              # all of them, two at a time
    python -m tests.mutants neighbor     # those whose description has this word

Each fault is put into a copy of the project, and the tests that should notice it are run there.
Ends with 'N of N caught', and status 1 when one was not.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
COPIED = ("src_py", "configs", "tests", "pyproject.toml", "requirements.txt")
AT_ONCE = 2
WIRING, LEARNING, LOOPS = "test_wiring.py", "test_learning.py", "test_training_loops.py"
DISTRIBUTED = "test_distributed.py"


class Mutant(NamedTuple):
    """One fault: `before` stands once in the file and becomes `after`."""

    fault: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...] = (WIRING,)


LOOP = "src_py/training_loops.py"
HEADS = "src_py/cluster_heads.py"
OPTIMIZERS = "src_py/optimizers.py"
PAIRS = "src_py/neighbor_pairs.py"

MUTANTS = (
    Mutant(
        "a random other image in the place of the neighbor",
        LOOP,
        "rows = [torch.stack([each, pairs.draw(each, generator)]) for each in anchors]",
        "rows = [torch.stack([each, torch.randint(len(images), each.shape)]) for each in anchors]",
    ),
    Mutant(
        "the pretext's learning rate times 1e-4",
        OPTIMIZERS,
        "self.peak = config.learning_rate * views / PAPER_VIEWS",
        "self.peak = 1e-4 * config.learning_rate * views / PAPER_VIEWS",
    ),
    Mutant(
        "gradient ascent in SCAN",
        LOOP,
        "descend(optimizer, loss.total.sum(), world=world)",
        "descend(optimizer, -loss.total.sum(), world=world)",
    ),
    Mutant(
        "positives from different images",
        LOOP,
        "loss = nt_xent([world.whole(part, len(rows)) for part in projections],",
        "loss = nt_xent([part.roll(i, 0) for i, part in enumerate(projections)],",
    ),
    Mutant(
        "pixels not normalised",
        "src_py/transforms.py",
        "views = normalize(augment(images_uint8, augmentation, generator, size), *statistics)",
        "views = augment(images_uint8, augmentation, generator, size)",
    ),
    Mutant(
        "reliable labels given to the wrong images",
        LOOP,
        "pseudo_labels.reliable[rows],",
        "pseudo_labels.reliable[: len(rows)],",
    ),
    Mutant(
        "weak and strong views exchanged",
        LOOP,
        "weak = random_view(images, config.weak_augment, numbers, statistics)\n"
        "        strong = random_view(images, config.strong_augment,",
        "weak = random_view(images, config.strong_augment, numbers, statistics)\n"
        "        strong = random_view(images, config.weak_augment,",
    ),
    Mutant(
        "weak logits of other images",
        LOOP,
        "            weak_logits[0],\n",
        "            weak_logits[0].roll(1, dims=0),\n",
    ),
    Mutant(
        "held-out heads judged on the part that they were trained on",
        "src_py/clusters/number.py",
        "judged = held_out.repeat(DRAWS)",
        "judged = trained.repeat(DRAWS)",
    ),
    Mutant(
        "MoCo's keys from the same view",
        LOOP,
        "first_keys, second_keys = (world.whole(part, len(rows)) for part in keys)",
        "second_keys, first_keys = (world.whole(part, len(rows)) for part in keys)",
    ),
    Mutant(
        "the EMA teacher never moves",
        LOOP,
        "update_average(teacher, model, schedule.ema_decay)",
        "pass",
        (LOOPS,),
    ),
    Mutant(
        "the average of SCAN's weights never moves",
        LOOP,
        "update_average(average, model, schedule.ema_decay)",
        "pass",
    ),
    Mutant(
        "MoCo's queue is never filled",
        LOOP,
        "        queue.push(torch.cat([first_keys, second_keys]))\n",
        "",
    ),
    Mutant(
        "MoCo's target never moves",
        LOOP,
        "        update_average(target, model, config.target_decay, buffers=False)\n",
        "",
    ),
    Mutant(
        "MoCo's keys from the model itself",
        LOOP,
        "keys = target(views).chunk(2)",
        "keys = model(views).chunk(2)",
    ),
    Mutant(
        "the second view is the first again",
        LOOP,
        "        loss = nt_xent([world.whole(part, len(rows)) for part in projections],",
        "        loss = nt_xent([projections[0], projections[0].detach()],",
        (LEARNING,),
    ),
    Mutant(
        "a plain image in the place of SCAN's strong view",
        LOOP,
        "first = random_view(anchors, config.augment, numbers, statistics)",
        "first = random_view(anchors, PLAIN_VIEW, numbers, statistics)",
    ),
    Mutant(
        "only the first head is trained",
        LOOP,
        "descend(optimizer, loss.total.sum(), world=world)",
        "descend(optimizer, loss.total[0], world=world)",
    ),
    Mutant(
        "SCAN's entropy is pushed down",
        LOOP,
        "loss = scan_loss(anchor_logits, neighbor_logits, config.entropy_weight, config.evenness)",
        "loss = scan_loss(anchor_logits, neighbor_logits, -config.entropy_weight, config.evenness)",
    ),
    Mutant(
        "anchors compared with the neighbors of others",
        LOOP,
        "        loss = scan_loss(anchor_logits, neighbor_logits,",
        "        loss = scan_loss(anchor_logits, neighbor_logits.roll(1, dims=1),",
    ),
    Mutant(
        "the head of highest loss is kept",
        LOOP,
        "best = int(totals.argmin())",
        "best = int(totals.argmax())",
        (LOOPS,),
    ),
    Mutant(
        "the heads of highest loss go on",
        HEADS,
        "best = totals.argsort()[: config.heads].tolist()",
        "best = totals.argsort(descending=True)[: config.heads].tolist()",
    ),
    Mutant(
        "gradient ascent for heads alone",
        HEADS,
        "descend(optimizer, loss.total.sum())",
        "descend(optimizer, -loss.total.sum())",
    ),
    Mutant(
        "a step without a pseudo-label is taken all the same",
        LOOP,
        "skipped = (kept == 0).float()",
        "skipped = torch.zeros(())",
    ),
    Mutant(
        "self-labelling never steps",
        LOOP,
        "        descend(optimizer, loss, skipped, world)\n",
        "",
        (LOOPS,),
    ),
    Mutant(
        "the student teaches in the teacher's place",
        LOOP,
        "weak_logits = world.whole(teacher(weak), ",
        "weak_logits = world.whole(model(weak), ",
    ),
    Mutant(
        "the teacher answers with batch statistics of its own",
        LOOP,
        "        teacher.eval()\n",
        "",
    ),
    Mutant(
        "what a person has said gives way to what is found",
        "src_py/pseudo_labels.py",
        "self.reliable = self.given.where(self.given != UNRELIABLE, found)",
        "self.reliable = found",
    ),
    Mutant(
        "what a person has said is not learned",
        LOOP,
        "PseudoLabels(len(images), hardware.device, given)",
        "PseudoLabels(len(images), hardware.device)",
    ),
    Mutant(
        "reliable labels are never renewed",
        LOOP,
        "epoch % config.refresh_epochs == 0",
        "epoch == 0",
    ),
    Mutant(
        "the optimizer never steps",
        OPTIMIZERS,
        "    optimizer.step()\n",
        "    pass\n",
    ),
    Mutant(
        "gradients of earlier steps are kept",
        OPTIMIZERS,
        "    optimizer.zero_grad(set_to_none=True)\n",
        "",
        (LOOPS, WIRING, LEARNING),
    ),
    Mutant(
        "neighbors are drawn beyond those that are allowed",
        PAIRS,
        "columns = (fractions * self.counts[anchors]).long().minimum(last)",
        "columns = (fractions * self.neighbors.shape[1]).long()",
        ("test_neighbor_pairs.py",),
    ),
    Mutant(
        "the cosine does not come down",
        OPTIMIZERS,
        "math.cos(math.pi * (progress - warmup) / (1 - warmup))",
        "math.cos(0.0)",
        (LOOPS,),
    ),
    Mutant(
        "what is tried before the first epoch trains the model itself",
        "src_py/run/planning.py",
        "    trial = copy.deepcopy(trained)\n    if together is ALONE:",
        "    trial = trained\n    if together is ALONE:",
        ("test_planning.py",),
    ),
    Mutant(
        "every process keeps its own gradient",
        "src_py/run/distributed.py",
        "        dist.all_reduce(together)\n",
        "",
        (DISTRIBUTED,),
    ),
    Mutant(
        "every process draws for its part as for a batch of its own",
        "src_py/run/distributed.py",
        "return PartOfBatch(generator, rows, copies * sum(totals))",
        "return generator",
        (DISTRIBUTED,),
    ),
    Mutant(
        "batch statistics of one process's images alone",
        "src_py/run/distributed.py",
        "        dist.all_reduce(told)\n",
        "",
        (DISTRIBUTED,),
    ),
)


def copy_project(folder: Path) -> None:
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)


def mutated(mutant: Mutant, project: Path) -> str:
    """The faulty text of its file.

    Raises:
        ValueError: when the text that it changes does not stand there just once.
    """
    text = (project / mutant.file).read_text(encoding="utf-8")
    if text.count(mutant.before) != 1:
        count = text.count(mutant.before)
        raise ValueError(f"'{mutant.fault}': its text stands {count} times in {mutant.file}")
    return text.replace(mutant.before, mutant.after)


def is_caught(mutant: Mutant) -> bool:
    """Whether a test fails where the fault is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_project(folder)
        (folder / mutant.file).write_text(mutated(mutant, PROJECT), encoding="utf-8")
        return run_tests(folder, mutant.tests) == 1


def run_tests(folder: Path, tests: tuple[str, ...]) -> int:
    """pytest's exit status: 0 when all pass, 1 when one fails, others when it could not run."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *(f"tests/{test}" for test in tests)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ).returncode


def main() -> None:
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.fault for word in sys.argv[1:])]
    used = tuple(sorted({test for mutant in chosen for test in mutant.tests}))
    if run_tests(PROJECT, used):
        sys.exit("the tests fail without a fault: mend that first")
    caught = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for mutant, noticed in zip(chosen, pool.map(is_caught, chosen), strict=True):
            caught += noticed
            print(f"{'caught' if noticed else 'NOT CAUGHT':<12}{mutant.fault}", flush=True)
    print(f"{caught} of {len(chosen)} caught")
    sys.exit(caught < len(chosen))


if __name__ == "__main__":
    main()
