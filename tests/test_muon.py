"""Muon, beside its published description in float64 and torch's own of matrices."""

import copy

import pytest
import torch

from src_py.backbones import build_backbone, new_spec
from src_py.optimizers import MUON_MOMENTUM, MUON_SHARE, Muon, orthogonalize


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6), (1, 5), (64, 3)])
def test_orthogonalize_leaves_the_singular_vectors_and_evens_the_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert ((values > 0.6) & (values < 1.3)).all()
    within = left.T @ orthogonalize(matrix) @ right.T  # diagonal where the vectors have stayed
    torch.testing.assert_close(within, torch.diag(within.diagonal()), atol=1e-9, rtol=0)
    assert torch.equal(orthogonalize(torch.zeros(shape)), torch.zeros(shape))


def test_matrices_move_as_in_torchs_muon():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    random = torch.Generator().manual_seed(1)
    ours = torch.nn.Parameter(torch.randn(12, 8, generator=random))
    theirs = torch.nn.Parameter(ours.detach().clone())
    rate = 0.1
    other = torch.optim.Muon(
        [theirs], MUON_SHARE * rate, weight_decay=0, momentum=MUON_MOMENTUM, adjust_lr_fn="original"
    )
    optimizer = Muon([ours], rate, momentum=0.9, weight_decay=0)
    begun = ours.detach().clone()
    for _ in range(3):
        theirs.grad = torch.randn(12, 8, generator=random)
        # Theirs averages gradients where ours adds them up: the direction is the same.
        ours.grad = theirs.grad.clone()
        optimizer.step(), other.step()
    moved, expected = ours.detach() - begun, theirs.detach() - begun
    assert torch.cosine_similarity(moved.ravel(), expected.ravel(), dim=0) > 0.999
    assert moved.norm() / expected.norm() == pytest.approx(1, abs=0.02)  # theirs is in bfloat16


def test_vectors_move_as_by_sgd():
    weight = torch.nn.Parameter(torch.ones(5))
    same = torch.nn.Parameter(torch.ones(5))
    options = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01}
    ours, sgd = Muon([weight], **options), torch.optim.SGD([same], **options)
    for step in range(4):
        weight.grad = torch.arange(5.0) - step
        same.grad = weight.grad.clone()
        ours.step(), sgd.step()
    torch.testing.assert_close(weight, same)


def test_a_convolution_is_a_matrix_of_its_output_channels_in_either_layout():
    network = build_backbone(new_spec("compact", 8, 3, 32))
    weight = network.blocks[0].conv1.weight
    begun = weight.detach().clone()
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        trained = copy.deepcopy(network).to(memory_format=layout)
        (parameter,) = (trained.blocks[0].conv1.weight,)
        random = torch.Generator().manual_seed(2)
        parameter.grad = torch.randn(weight.shape, generator=random).to(memory_format=layout)
        Muon([parameter], 1.0, momentum=0.9, weight_decay=0).step()
        moved.append((parameter.detach() - begun).contiguous())
    torch.testing.assert_close(*moved, atol=1e-6, rtol=0)
    values = torch.linalg.svdvals(moved[0].reshape(8, -1))
    assert ((values > 0.6 * MUON_SHARE) & (values < 1.3 * MUON_SHARE)).all()


def test_the_state_goes_on_where_it_was():
    def gradients(parameters, step):
        for number, parameter in enumerate(parameters):
            random = torch.Generator().manual_seed(10 * step + number)
            parameter.grad = torch.randn(parameter.shape, generator=random)

    weights = [torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.ones(4))]
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    optimizer = Muon(weights, **options)
    gradients(weights, 0), optimizer.step()
    again = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    resumed = Muon(again, **options)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for parameters, each in ((weights, optimizer), (again, resumed)):
        gradients(parameters, 1), each.step()
    for weight, same in zip(weights, again, strict=True):
        assert torch.equal(weight, same)
