"""The neighbor search against brute force, and its promises on duplicates, order and errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from src_py import neighbors as module
from src_py.mining import exact, inverted_lists, ranking
from src_py.mining.inverted_lists import InvertedLists
from src_py.mining.neighbor_graph import DUPLICATE, neighbor_statistics
from src_py.neighbors import (
    UNKNOWN,
    Neighbors,
    are_all_alike,
    find_neighbors,
    l2_normalize,
    neighbor_recall,
    with_directions,
)


def gaussian(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def clustered(rows, width, seed=0, groups=20):
    """Groups whose members differ in 8 directions of their own, as learned features do."""
    rng = np.random.default_rng(seed)
    group = rng.integers(groups, size=rows)
    directions = rng.normal(size=(groups, 8, width)) / 3
    offset = np.einsum("nd,ndw->nw", rng.normal(size=(rows, 8)), directions[group])
    noise = 0.1 * rng.normal(size=(rows, width))
    return (rng.normal(size=(groups, width))[group] + offset + noise).astype(np.float32)


def brute_force(features, k):
    """float64 similarities of every row with every other, sorted; self removed first."""
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    similarity = unit @ unit.T
    neighbors = np.empty((len(unit), k), dtype=np.int64)
    for row in range(len(unit)):
        others = [other for other in range(len(unit)) if other != row]
        others.sort(key=lambda other: -similarity[row, other])
        neighbors[row] = others[:k]
    return neighbors, np.take_along_axis(similarity, neighbors, 1)


def assert_contract(neighbors, similarity, rows, k):
    assert neighbors.shape == similarity.shape == (rows, k)
    assert neighbors.dtype == np.int64 and similarity.dtype == np.float32
    assert neighbors.min() >= 0 and neighbors.max() < rows
    assert not (neighbors == np.arange(rows)[:, None]).any(), "a row is its own neighbor"
    assert all(len(set(row)) == k for row in neighbors.tolist())
    step = np.diff(similarity, axis=1)
    assert (step <= 0).all(), "not the most similar first"
    assert (np.diff(neighbors, axis=1)[step == 0] > 0).all(), "ties are not in index order"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 12), st.data())
def test_equals_brute_force(seed, rows, width, data):
    k = data.draw(st.integers(1, rows - 1))
    features = gaussian(rows, width, seed)
    neighbors, similarity = find_neighbors(features, k)
    assert_contract(neighbors, similarity, rows, k)
    _, expected = brute_force(features, k)
    np.testing.assert_allclose(similarity, expected, atol=2e-6)


def test_indices_equal_brute_force_over_several_blocks(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 20_000)
    features = gaussian(9000, 8, seed=3)
    neighbors, similarity = find_neighbors(features, 3)
    assert_contract(neighbors, similarity, 9000, 3)
    some = np.arange(0, 9000, 450)
    unit = l2_normalize(features).astype(np.float64)
    products = unit[some] @ unit.T
    products[np.arange(len(some)), some] = -2
    np.testing.assert_array_equal(neighbors[some], np.argsort(-products, axis=1)[:, :3])


@pytest.mark.parametrize("width", [1, 3, 64, 2048])
@pytest.mark.parametrize(("copies", "k"), [(5, 3), (5, 4), (5, 9), (40, 3), (40, 20)])
def test_duplicates_keep_self_out_and_each_other_in(copies, k, width):
    features = np.repeat(gaussian(4, width, seed=1), copies, axis=0)
    neighbors, similarity = find_neighbors(features, k)
    assert_contract(neighbors, similarity, 4 * copies, k)
    near = min(k, copies - 1)
    if width > 1:  # in one dimension every row is +1 or -1, and groups coincide
        group = np.arange(4 * copies) // copies
        assert (neighbors[:, :near] // copies == group[:, None]).all()
    assert (similarity[:, :near] > DUPLICATE).all()


def test_all_rows_identical():
    neighbors, similarity = find_neighbors(np.ones((30, 7), np.float32), 29)
    assert_contract(neighbors, similarity, 30, 29)
    expected = [[other for other in range(30) if other != row] for row in range(30)]
    np.testing.assert_array_equal(neighbors, expected)


def test_runs_agree_bit_for_bit_whatever_the_threads():
    features = np.concatenate([gaussian(3000, 16), gaussian(300, 16), gaussian(300, 16)])
    first = find_neighbors(features, 10, threads=1)
    for threads in (1, 2, None):
        again = find_neighbors(features, 10, threads=threads)
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])


def test_the_number_of_threads_is_put_back():
    import faiss

    before = faiss.omp_get_max_threads()
    find_neighbors(gaussian(20, 4), 2, threads=before + 1)
    assert faiss.omp_get_max_threads() == before
    with pytest.raises(ValueError):
        find_neighbors(gaussian(20, 4), 20, threads=before + 1)
    assert faiss.omp_get_max_threads() == before


def test_features_are_left_as_they_were():
    features = gaussian(50, 6)
    before = features.copy()
    find_neighbors(features, 4)
    np.testing.assert_array_equal(features, before)


def test_lengths_and_types_do_not_matter():
    features = gaussian(60, 6).astype(np.float16)
    scales = np.logspace(-20, 18, 60)[:, None]
    expected, _ = find_neighbors(features, 5)
    for variant in (
        features.astype(np.float64),
        (features * scales).astype(np.float32),
        np.asfortranarray(features),
        np.repeat(features, 2, axis=0)[::2],
    ):
        np.testing.assert_array_equal(find_neighbors(variant, 5)[0], expected)


# ---- approximate search ----------------------------------------------------------------------


@pytest.fixture
def searches(monkeypatch):
    """Which of both searches were asked, in order."""
    asked = []
    for name in ("_search_all", "_answers"):
        search = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, n=name, s=search: asked.append(n.lstrip("_")) or s(*a)
        )
    return asked


def test_approximate_search_reaches_its_recall(searches):
    features, said = clustered(6000, 32, seed=5), []
    neighbors, similarity = find_neighbors(features, 20, exact=False, say=said.append)
    assert_contract(neighbors, similarity, 6000, 20)
    assert neighbor_recall(features, neighbors) >= 0.95
    again, _ = find_neighbors(features, 20, exact=False, threads=2)
    np.testing.assert_array_equal(neighbors, again)
    assert searches == 2 * ["answers"]
    assert "lists around each" in said[0]


def test_features_without_clusters_are_searched_exactly(searches, monkeypatch):
    features = gaussian(3000, 64, seed=6)
    exact, said = find_neighbors(features, 20, exact=True), []
    monkeypatch.setattr(inverted_lists, "LARGEST_GATHER", 2**18)  # 1,024 rows
    found = find_neighbors(features, 20, exact=False, say=said.append)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.similarity, exact.similarity)
    monkeypatch.setattr(module, "LARGEST_WITHOUT_CLUSTERS", 2999)
    found = find_neighbors(features, 20, exact=False, say=said.append)
    assert_contract(*found, 3000, 20)
    assert "the 76 lists around each of 76" in said[0] and "1.000" in said[0]
    assert "the 16 lists around each of 76" in said[1]
    assert searches == ["search_all", "answers", "answers"]


@pytest.mark.parametrize("rows", [2, 5, 100, 700])
def test_approximate_search_of_few_rows_or_of_duplicates(rows):
    for features in (gaussian(rows, 8), np.ones((rows, 8), np.float32)):
        k = min(20, rows - 1)
        neighbors, similarity = find_neighbors(features, k, exact=False)
        assert_contract(neighbors, similarity, rows, k)


def test_approximate_search_fills_rows_whose_lists_are_short(searches):
    # Most rows coincide, so most lists hold only a few rows: fewer than k near a lonely one.
    features = np.concatenate([np.ones((3000, 4), np.float32), gaussian(500, 4)])
    lists = InvertedLists.of(lambda rows: l2_normalize(features[rows]), 3500)
    assert np.sort(np.diff(lists.starts))[:8].sum() < 69
    neighbors, similarity = find_neighbors(features, 60, exact=False)
    assert_contract(neighbors, similarity, 3500, 60)
    assert "answers" in searches


def test_large_sets_are_searched_approximately_unless_told_otherwise(monkeypatch, searches):
    monkeypatch.setattr(module, "LARGEST_EXACT", 3000)
    find_neighbors(clustered(3000, 16), 3)
    find_neighbors(clustered(3001, 16), 3, exact=True)
    assert searches == 2 * ["search_all"]
    find_neighbors(clustered(3001, 16), 3)
    assert searches[2] == "answers"


def test_a_gpu_whose_memory_is_full_leaves_the_search_to_the_cpu(monkeypatch):
    asked = []

    def too_much(queries, unit, count, device):
        asked.append(device.type)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(exact, "_by_products", too_much)
    features = gaussian(30, 4)
    found = find_neighbors(features, 3, device=torch.device("cuda"))
    assert asked == ["cuda"]
    np.testing.assert_array_equal(found.indices, find_neighbors(features, 3).indices)


@pytest.mark.parametrize("count", [1, 7, 25, 40])
def test_products_in_blocks_find_what_faiss_finds(monkeypatch, count):
    monkeypatch.setattr(exact, "ROWS_AT_ONCE", 16)
    unit, cpu = l2_normalize(gaussian(40, 6)), torch.device("cpu")
    found = exact._by_products(unit[3:20], unit, count, cpu)
    np.testing.assert_array_equal(found, exact.most_similar(unit[3:20], unit, count, cpu))


def test_products_are_of_full_float32(monkeypatch):
    precisions = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function is torch.ops.aten.mm.default:
                precisions.append(torch.get_float32_matmul_precision())
            return function(*arguments, **(options or {}))

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with Watching():
            exact._by_products(*2 * [l2_normalize(gaussian(9, 3))], 2, torch.device("cpu"))
        assert precisions == ["highest"] and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("exact", [True, False])
def test_an_interrupted_search_goes_on(exact, searches, monkeypatch, tmp_path):
    features = clustered(3000, 16, seed=2)
    whole = find_neighbors(features, 5, exact=exact, folder=tmp_path)
    found = Neighbors(whole.indices.copy(), whole.similarity.copy())
    found.indices[[17, 1700]] = UNKNOWN
    put, sought = Neighbors.put, []
    monkeypatch.setattr(Neighbors, "put", lambda *a: sought.extend(a[1]) or put(*a))
    found = find_neighbors(features, 5, exact=exact, found=found, folder=tmp_path)
    np.testing.assert_array_equal(found.indices, whole.indices)
    np.testing.assert_array_equal(found.similarity, whole.similarity)
    assert {17, 1700} <= set(sought) and len(sought) < 300
    assert len(list(tmp_path.iterdir())) == (0 if exact else 5)  # lists, which were taken again
    if not exact:  # damaged ones are not
        found.indices[3] = UNKNOWN
        unit = np.load(tmp_path / "lists.unit.npy", mmap_mode="r+")
        unit[1000:] = 0
        found = find_neighbors(features, 5, exact=False, found=found, folder=tmp_path)
        np.testing.assert_array_equal(found.indices, whole.indices)
    assert set(searches) == {"search_all" if exact else "answers"}


def test_recall_by_hand():
    features = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [0.2, 1]], np.float32)
    exact, _ = find_neighbors(features, 2)
    assert neighbor_recall(features, exact) == 1
    assert neighbor_recall(features, np.stack([exact[:, 0], (exact[:, 0] + 3) % 6], 1)) == 0.5
    with pytest.raises(ValueError, match="5 rows of neighbors for 6 rows"):
        neighbor_recall(features, exact[:5])


# ---- normalisation and errors ----------------------------------------------------------------


def test_l2_normalize():
    unit = l2_normalize(np.array([[3, 4], [-5, 0]]))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [[0.6, 0.8], [-1, 0]], atol=1e-7)
    extreme = l2_normalize(np.array([[1e30, 1e30], [1e-40, 0]], np.float32))
    np.testing.assert_allclose(extreme, [[0.5**0.5, 0.5**0.5], [1, 0]], atol=1e-6)


@pytest.mark.parametrize("k", [0, -1, 10, 11])
def test_wrong_k_is_named(k):
    with pytest.raises(ValueError, match=f"got k = {k} for 10 rows") as error:
        find_neighbors(gaussian(10, 3), k)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "not finite")]
)
def test_rows_that_are_not_finite_are_counted(value, what):
    features = gaussian(10, 3)
    features[[4, 7], 1] = value
    with pytest.raises(ValueError, match=rf"2 of 10 feature rows are {what}, .* row 4"):
        find_neighbors(features, 2)


def test_zero_rows_are_counted():
    features = gaussian(10, 3)
    features[[2, 3, 9]] = 0
    with pytest.raises(ValueError, match=r"3 of 10 feature rows are all zero, .* row 2"):
        find_neighbors(features, 2)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,), (2, 2, 2)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match="non-empty"):
        find_neighbors(np.ones(shape, np.float32), 1)


# ---- statistics ------------------------------------------------------------------------------


def test_statistics_by_hand():
    neighbors = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    similarity = np.array([[1, 0.5], [1, 0.5], [0.5, 0.5], [0.25, -0.25]], np.float32)
    assert neighbor_statistics(neighbors, similarity) == {
        "mean_similarity": 0.5,
        "min_similarity": -0.25,
        "mutual_share": 6 / 8,
        "max_in_degree": 3,
        "never_chosen": 1,
        "exact_duplicates": 2,
    }


def test_statistics_equal_a_loop():
    neighbors, similarity = find_neighbors(gaussian(200, 5, seed=8), 7)
    chosen = [set(row) for row in neighbors.tolist()]
    pairs = [(i, j) for i, row in enumerate(chosen) for j in row]
    degree = [sum(j in row for row in chosen) for j in range(200)]
    statistics = neighbor_statistics(neighbors, similarity)
    assert statistics["mutual_share"] == sum(i in chosen[j] for i, j in pairs) / len(pairs)
    assert statistics["max_in_degree"] == max(degree)
    assert statistics["never_chosen"] == degree.count(0)
    assert statistics["exact_duplicates"] == 0
    assert {type(value) for value in statistics.values()} == {int, float}


def test_statistics_name_wrong_shapes():
    with pytest.raises(ValueError, match="one shape"):
        neighbor_statistics(np.zeros((3, 2), np.int64), np.zeros((3, 3), np.float32))


def test_rows_without_a_direction_are_neighbors_of_each_other():
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert with_directions(features) is features
    features[[3, 7, 11]] = 0
    neighbors, similarity = find_neighbors(with_directions(features), 2)
    assert set(neighbors[3]) == {7, 11} and similarity[3] == pytest.approx(1)
    others = np.delete(np.arange(20), [3, 7, 11])
    expected, _ = find_neighbors(features[others], 2)
    np.testing.assert_array_equal(neighbors[others], others[expected])


def test_features_of_one_direction_are_all_alike():
    features = np.outer(np.arange(1, 9), [3.0, 4.0])
    assert are_all_alike(features) and are_all_alike(np.zeros((5, 3)))
    features[2, 0] += 1
    assert not are_all_alike(features)
