"""Every loss against a slow float64 reference written from the paper with Python loops."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from src_py.losses import UNRELIABLE, info_nce, nt_xent, scan_loss, self_label_loss

KINDS = st.sampled_from(["normal", "extreme", "duplicated", "constant"])
SEEDS = st.integers(0, 2**32 - 1)
QUICK = settings(max_examples=40, deadline=None)


# ---- references ------------------------------------------------------------------------------


def softmax_reference(row):
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def log_softmax_reference(row):
    top = max(row)
    return [value - top - math.log(sum(math.exp(v - top) for v in row)) for value in row]


def nt_xent_reference(views, temperature):
    batch, losses = len(views[0]), []
    unit = [[row / math.sqrt(sum(row * row)) for row in view] for view in views]
    for v, image in itertools.product(range(len(views)), range(batch)):
        similar = [[math.exp(float(unit[v][image] @ z) / temperature) for z in u] for u in unit]
        others = sum(s for each in similar for j, s in enumerate(each) if j != image)
        for p in set(range(len(views))) - {v}:  # each other view of the image
            positive = similar[p][image]
            losses.append(math.log(positive + others) - math.log(positive))
    return sum(losses) / len(losses)


def scan_reference(anchors, neighbors, entropy_weight):
    consistency = 0.0
    for anchor, neighbor in zip(anchors, neighbors, strict=True):
        # exp(-200) and its products are ordinary float64 numbers: no log-space trick needed.
        product = sum(
            math.exp(a + n)
            for a, n in zip(
                log_softmax_reference(anchor), log_softmax_reference(neighbor), strict=True
            )
        )
        consistency -= math.log(product) / len(anchors)
    rows = [softmax_reference(anchor) for anchor in anchors]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    entropy = -sum(p * math.log(p) for p in mean)
    return consistency - entropy_weight * entropy, consistency, entropy


def self_label_reference(weak, strong, threshold, balanced):
    kept = []
    for weak_row, strong_row in zip(weak, strong, strict=True):
        probabilities = softmax_reference(weak_row)
        if max(probabilities) > threshold:
            target = probabilities.index(max(probabilities))
            kept.append((target, -log_softmax_reference(strong_row)[target]))
    counts = {}
    for target, _ in kept:
        counts[target] = counts.get(target, 0) + 1
    weights = [len(kept) / counts[target] if balanced else 1.0 for target, _ in kept]
    if not kept:
        return 0.0, 0
    total = sum(weight * loss for weight, (_, loss) in zip(weights, kept, strict=True))
    return total / sum(weights), len(kept)


# ---- helpers ---------------------------------------------------------------------------------


def draw(seed, kind, *shape):
    """float32-representable values in float64, so that both precisions see the same input."""
    rng = np.random.default_rng(seed)
    if kind == "extreme":
        values = rng.choice([-50.0, 50.0, -49.0, 0.5], size=shape)
    else:
        values = rng.normal(scale=4.0, size=shape)
    if kind == "duplicated":
        values[:] = values[..., :1, :]
    if kind == "constant":
        values[:] = 1.5
    return torch.from_numpy(values.astype(np.float32).astype(np.float64))


def assert_close(actual, expected, tolerance):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    bound = tolerance * expected.abs().clamp(min=1.0)
    assert actual.shape == expected.shape
    assert bool(((actual.double() - expected).abs() <= bound).all()), (actual, expected)


def assert_finite_gradients(loss, *inputs):
    for gradient in torch.autograd.grad(loss, inputs):
        assert bool(gradient.isfinite().all())


# ---- NT-Xent ---------------------------------------------------------------------------------


@QUICK
@given(
    SEEDS,
    KINDS,
    st.integers(2, 5),
    st.integers(1, 24),
    st.integers(2, 16),
    st.floats(0.05, 1.0),
)
def test_nt_xent_equals_the_reference(seed, kind, count, batch, width, temperature):
    views = [draw(seed + i, kind, batch, width).requires_grad_() for i in range(count)]
    expected = nt_xent_reference([view.detach().numpy() for view in views], temperature)
    loss = nt_xent(views, temperature)
    assert loss.dtype == torch.float64
    assert abs(loss.item() - expected) <= 1e-6
    assert_close(nt_xent([view.float() for view in views], temperature), expected, 1e-5)
    assert_finite_gradients(loss, *views)


@QUICK
@given(SEEDS, st.integers(1, 24), st.floats(0.05, 1.0))
def test_nt_xent_of_two_views_is_the_published_loss(seed, batch, temperature):
    first, second = draw(seed, "normal", batch, 6), draw(seed + 1, "normal", batch, 6)
    z = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    similar = (z @ z.T / temperature).exp()
    positive = similar.diagonal(batch).repeat(2)
    denominator = similar.fill_diagonal_(0).sum(dim=1)
    expected = (denominator.log() - positive.log()).mean()
    assert_close(nt_xent([first, second], temperature), float(expected), 1e-9)


def test_nt_xent_by_hand():
    views = torch.eye(2, dtype=torch.float64)
    # Each view: the positive at similarity 1, two others at 0, itself left out.
    expected = math.log(math.exp(2) + 2) - 2
    assert nt_xent([views, views * 7], 0.5).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [2, 4])
def test_nt_xent_of_one_image_is_zero_with_zero_gradient(count):
    views = [torch.randn(1, 8, requires_grad=True) for _ in range(count)]
    loss = nt_xent(views, 0.1)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, views):
        assert bool((gradient == 0).all())


def test_nt_xent_ignores_batch_order_view_order_and_length():
    first, second = draw(0, "normal", 12, 6), draw(1, "normal", 12, 6)
    expected = nt_xent([first, second], 0.2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert_close(nt_xent([first[order], second[order]], 0.2), expected, 1e-12)
    assert_close(nt_xent([second, first], 0.2), expected, 1e-12)
    assert_close(nt_xent([first * 1e3, second * 1e-3], 0.2), expected, 1e-12)


def test_nt_xent_survives_a_zero_projection():
    first = torch.zeros(4, 3, requires_grad=True)
    second = torch.randn(4, 3, requires_grad=True)
    loss = nt_xent([first, second], 0.1)
    assert bool(loss.isfinite())
    assert_finite_gradients(loss, first, second)


# ---- SCAN ------------------------------------------------------------------------------------


@QUICK
@given(
    SEEDS, KINDS, st.integers(1, 4), st.integers(1, 64), st.integers(2, 50), st.floats(0.0, 10.0)
)
def test_scan_loss_equals_the_reference(seed, kind, heads, batch, classes, weight):
    anchors = draw(seed, kind, heads, batch, classes).requires_grad_()
    neighbors = draw(seed + 1, kind, heads, batch, classes).requires_grad_()
    pairs = zip(anchors.tolist(), neighbors.tolist(), strict=True)
    expected = list(zip(*(scan_reference(a, n, weight) for a, n in pairs), strict=True))
    exact = scan_loss(anchors, neighbors, weight)
    single = scan_loss(anchors.float(), neighbors.float(), weight)
    for ours, ours_32, reference in zip(exact, single, expected, strict=True):
        assert ours.dtype == torch.float64 and ours_32.dtype == torch.float32
        assert (ours.detach() - torch.tensor(reference, dtype=ours.dtype)).abs().max() <= 1e-6
        # total subtracts two terms, so rounding is relative to their size.
        scale = 1 + weight * math.log(classes)
        assert_close(ours_32, reference, 1e-5 * scale)
    assert bool((exact.entropy >= -1e-12).all())
    assert bool((exact.entropy <= math.log(classes) + 1e-12).all())
    assert bool((exact.consistency >= -1e-12).all())
    assert_finite_gradients(exact.total.sum(), anchors, neighbors)
    assert_finite_gradients(single.total.sum(), anchors, neighbors)


def test_scan_loss_by_hand():
    log = math.log
    anchors = torch.tensor([[log(3), 0.0], [0.0, log(3)]], dtype=torch.float64)  # .75 / .25
    neighbors = torch.tensor([[log(3), 0.0], [0.0, 0.0]], dtype=torch.float64)
    loss = scan_loss(anchors, neighbors, 5.0)
    consistency = -(log(0.75**2 + 0.25**2) + log(0.5)) / 2
    assert loss.consistency.item() == pytest.approx(consistency, abs=1e-12)
    assert loss.entropy.item() == pytest.approx(log(2), abs=1e-12)
    assert loss.total.item() == pytest.approx(consistency - 5 * log(2), abs=1e-12)


def test_scan_loss_of_one_head_is_scalar_and_equals_its_row():
    anchors, neighbors = draw(2, "normal", 3, 7, 5), draw(3, "normal", 3, 7, 5)
    together = scan_loss(anchors, neighbors, 5.0)
    for head in range(3):
        alone = scan_loss(anchors[head], neighbors[head], 5.0)
        for ours, expected in zip(alone, together, strict=True):
            assert ours.shape == ()
            assert_close(ours, expected[head], 1e-12)


def test_scan_entropy_reaches_both_bounds():
    one_hot = 100 * torch.eye(6)
    assert scan_loss(one_hot, one_hot, 1.0).entropy.item() == pytest.approx(math.log(6), abs=1e-6)
    collapsed = one_hot[:1].expand(6, 6)
    assert scan_loss(collapsed, collapsed, 1.0).entropy.item() == pytest.approx(0, abs=1e-6)


def test_scan_entropy_is_of_the_anchors_only():
    anchors = draw(4, "normal", 8, 3)
    first = scan_loss(anchors, draw(5, "normal", 8, 3), 5.0)
    second = scan_loss(anchors, draw(6, "normal", 8, 3), 5.0)
    assert first.entropy == second.entropy
    assert first.consistency != second.consistency


def test_scan_loss_ignores_the_order_of_pairs_and_of_classes():
    anchors, neighbors = draw(7, "normal", 9, 6), draw(8, "normal", 9, 6)
    expected = scan_loss(anchors, neighbors, 5.0).total
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randperm(9, generator=generator), torch.randperm(6, generator=generator)
    assert_close(scan_loss(anchors[rows], neighbors[rows], 5.0).total, expected, 1e-12)
    permuted = scan_loss(anchors[:, columns], neighbors[:, columns], 5.0).total
    assert_close(permuted, expected, 1e-12)


def test_scan_loss_keeps_its_gradient_where_probabilities_vanish():
    # In float32 the product of these probabilities is exp(-200) = 0; its log must not be -inf.
    anchors = torch.tensor([[100.0, -100.0, 0.0]], requires_grad=True)
    neighbors = torch.tensor([[-100.0, 100.0, 0.0]], requires_grad=True)
    loss = scan_loss(anchors, neighbors, 0.0)
    assert loss.consistency.item() == pytest.approx(200 - math.log(3), rel=1e-6)
    assert torch.autograd.grad(loss.total, anchors)[0].abs().max() > 0.1


# ---- self-labelling --------------------------------------------------------------------------


@QUICK
@given(
    SEEDS,
    KINDS,
    st.integers(1, 64),
    st.integers(2, 50),
    st.sampled_from([0.0, 0.6, 0.95, 0.99]),
    st.booleans(),
)
def test_self_label_loss_equals_the_reference(seed, kind, batch, classes, threshold, balanced):
    # Ties of the argmax have no one right answer; a fixed tilt breaks them.
    tilt = torch.arange(classes, dtype=torch.float64) / 64
    weak = (draw(seed, kind, batch, classes) + tilt).requires_grad_()
    strong = draw(seed + 1, kind, batch, classes).requires_grad_()
    expected, kept = self_label_reference(weak.tolist(), strong.tolist(), threshold, balanced)
    exact = self_label_loss(weak, strong, threshold, balanced)
    single = self_label_loss(weak.float(), strong.float(), threshold, balanced)
    assert abs(exact.loss.item() - expected) <= 1e-6
    assert_close(single.loss, expected, 1e-5)
    assert exact.kept.item() == single.kept.item() == kept
    assert exact.kept.shape == () and exact.kept.dtype == torch.int64
    assert_finite_gradients(exact.loss, strong)
    assert torch.autograd.grad(exact.loss, weak, allow_unused=True)[0] is None


def test_self_label_loss_by_hand():
    weak = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.1, 0.0]], dtype=torch.float64)
    strong = torch.log(
        torch.tensor([[0.5, 0.5], [0.8, 0.2], [0.9, 0.1], [0.01, 0.99]], dtype=torch.float64)
    )
    loss, kept = self_label_loss(weak, strong, 0.9)
    # Two kept of class 0 (weight 3/2 each), one of class 1 (weight 3): each class counts half.
    first_class = -(math.log(0.5) + math.log(0.8)) / 2
    assert loss.item() == pytest.approx((first_class - math.log(0.1)) / 2, abs=1e-12)
    assert kept.item() == 3
    plain, _ = self_label_loss(weak, strong, 0.9, balanced=False)
    expected = -(math.log(0.5) + math.log(0.8) + math.log(0.1)) / 3
    assert plain.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("balanced", [True, False])
def test_self_label_loss_of_an_empty_mask(balanced):
    weak, strong = torch.zeros(5, 3), torch.randn(5, 3, requires_grad=True)
    loss, kept = self_label_loss(weak, strong, 0.99, balanced)
    assert loss.item() == 0 and kept.item() == 0
    (gradient,) = torch.autograd.grad(loss, strong)
    assert bool((gradient == 0).all())


def test_self_label_threshold_is_strict():
    weak = torch.tensor([[0.0, -1e4], [0.0, 0.0]], dtype=torch.float64)  # confidences 1 and 1/2
    strong = torch.randn(2, 2)
    assert self_label_loss(weak, strong, 1.0).kept.item() == 0
    assert self_label_loss(weak, strong, 0.5).kept.item() == 1


def test_self_label_loss_ignores_order_and_dropped_samples():
    weak, strong = draw(9, "normal", 20, 4), draw(10, "normal", 20, 4)
    expected, kept = self_label_loss(weak, strong, 0.9)
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.randperm(20, generator=generator), torch.randperm(4, generator=generator)
    shuffled = self_label_loss(weak[rows][:, columns], strong[rows][:, columns], 0.9)
    assert_close(shuffled.loss, expected, 1e-12)
    unsure = torch.cat([weak, torch.zeros(3, 4)])
    extended = self_label_loss(unsure, torch.cat([strong, torch.full((3, 4), 1e3)]), 0.9)
    assert_close(extended.loss, expected, 1e-12)
    assert extended.kept == kept


def test_evenness_asks_for_no_more_than_its_share_of_the_largest_entropy():
    anchors, neighbors = draw(17, "normal", 20, 4), draw(18, "normal", 20, 4)
    paper = scan_loss(anchors, neighbors, 5.0)
    share = paper.entropy.item() / math.log(4)
    assert_close(scan_loss(anchors, neighbors, 5.0, share + 0.01).total, paper.total, 1e-12)
    capped = scan_loss(anchors, neighbors, 5.0, share / 2)
    assert_close(capped.total, paper.consistency - 5 * paper.entropy / 2, 1e-12)
    assert_close(capped.entropy, paper.entropy, 1e-12)


def test_a_reliable_label_holds_whatever_the_weak_view_says():
    weak = torch.tensor([[9.0, 0.0], [0.0, 0.0], [0.0, 9.0]], dtype=torch.float64)
    strong = draw(13, "normal", 3, 2)
    reliable = torch.tensor([1, 0, UNRELIABLE])
    loss, kept = self_label_loss(weak, strong, 0.9, balanced=False, reliable=reliable)
    expected = torch.nn.functional.cross_entropy(strong, torch.tensor([1, 0, 1]))
    assert_close(loss, expected, 1e-12)
    assert kept.item() == 3


# ---- MoCo --------------------------------------------------------------------------------------


def test_info_nce_equals_the_formula():
    queries, keys = draw(14, "normal", 4, 3).requires_grad_(), draw(15, "normal", 4, 3)
    queue = torch.nn.functional.normalize(draw(16, "normal", 5, 3), dim=1)
    total = 0.0
    for i in range(4):
        query = queries[i].detach() / queries[i].detach().norm()
        candidates = [key / key.norm() for key in keys] + list(queue)
        scores = [math.exp(float(query @ candidate) / 0.2) for candidate in candidates]
        total -= math.log(scores[i] / sum(scores)) / 4
    loss = info_nce(queries, keys, queue, 0.2)
    assert_close(loss, total, 1e-9)
    assert_finite_gradients(loss, queries)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_info_nce_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(ValueError, match="temperature"):
        info_nce(torch.ones(2, 3), torch.ones(2, 3), torch.ones(4, 3), temperature)


# ---- all three -------------------------------------------------------------------------------

LOSSES = {
    "nt_xent": lambda a, b: nt_xent([a, b], 0.5),
    "scan": lambda a, b: scan_loss(a, b, 5.0).total,
    "self_label": lambda a, b: self_label_loss(a, b, 0.4).loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name):
    weak, strong = draw(11, "normal", 5, 4), draw(12, "normal", 5, 4).requires_grad_()
    if name == "self_label":
        assert torch.autograd.gradcheck(lambda b: LOSSES[name](weak, b), (strong,))
    else:
        assert torch.autograd.gradcheck(LOSSES[name], (weak.requires_grad_(), strong))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_inputs_are_computed_in_float32_even_under_autocast(name, dtype):
    first, second = draw(13, "normal", 16, 8).to(dtype), draw(14, "normal", 16, 8).to(dtype)
    expected = LOSSES[name](first.float(), second.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for a, b in [(first, second), (first.float(), second.float())]:
            loss = LOSSES[name](a, b)
            assert loss.dtype == torch.float32
            assert loss == expected
    second.requires_grad_()
    assert_finite_gradients(LOSSES[name](first, second), second)


@pytest.mark.parametrize("name", LOSSES)
def test_no_value_is_read_on_the_host(name):
    # A fake tensor has no data: .item(), bool() or nonzero() on it raises.
    with FakeTensorMode():
        first, second = torch.empty(6, 4), torch.empty(6, 4, requires_grad=True)
        LOSSES[name](first, second).backward()
        assert second.grad.shape == (6, 4)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((3,), (3,)), ((0, 3), (0, 3))])
def test_wrong_shapes_are_named(name, shapes):
    with pytest.raises(ValueError, match=r"must"):
        LOSSES[name](torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_nt_xent_needs_two_views():
    with pytest.raises(ValueError, match="two views or more"):
        nt_xent([torch.ones(2, 2)], 0.5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_nt_xent_names_a_wrong_temperature(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        nt_xent([torch.ones(2, 2), torch.ones(2, 2)], temperature)
