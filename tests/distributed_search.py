"""One of the processes that test_distributed.py starts: they search neighbors together."""

import json
from pathlib import Path

import numpy as np

from src_py import neighbors
from src_py.mining.inverted_lists import InvertedLists
from src_py.neighbors import find_neighbors, help_find_neighbors
from src_py.run.distributed import leave
from src_py.run.hardware import choose_hardware

random = np.random.default_rng(0)
features = random.normal(size=(2000, 8)).astype(np.float32)
features += 3 * random.normal(size=(20, 8))[random.integers(20, size=2000)]
place = Path()
world = choose_hardware("cpu").world
neighbors.LISTS_AT_ONCE = 4

searched, search = 0, InvertedLists.search


def counted(*arguments):
    global searched
    for answer in search(*arguments):
        searched += len(answer[0])
        yield answer


InvertedLists.search = counted
if world.is_first:
    found = find_neighbors(features, 5, exact=False, folder=place, world=world)
    np.save("together.npy", found.indices)
else:
    help_find_neighbors(place, world)
rows = world.gathered([searched])
if world.is_first:
    Path("searched.json").write_text(json.dumps(rows))
    np.save("alone.npy", find_neighbors(features, 5, exact=False).indices)
leave()
