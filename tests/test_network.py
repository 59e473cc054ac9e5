import pytest
import torch
from torch import nn

from geodetect.anchors import AnchorSpec
from geodetect.errors import ArgumentError
from geodetect.metadata import Architecture
from geodetect.network.coding import select_candidates, suppress
from geodetect.network.losses import Loss
from geodetect.network.precision import autocast, resolve
from geodetect.network.pyramid import Pyramid
from geodetect.network.retinanet import Network


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network("resnet18", n_classes=3, weights=None).eval()


@pytest.mark.parametrize("levels", [(3, 7), (2, 7)])
@pytest.mark.parametrize("shape", [(64, 64), (65, 130), (33, 40)])
def test_there_is_one_answer_for_each_anchor(shape, levels):
    network = Network(Architecture("resnet18", anchors=AnchorSpec(levels=levels)), n_classes=3, weights=None).eval()
    with torch.inference_mode():
        logits, deltas = network(torch.zeros(2, 3, *shape))
    n_anchors = len(network.anchors(shape))
    assert logits.shape == (2, n_anchors, 3)
    assert deltas.shape == (2, n_anchors, 4)
    assert sum(network.level_sizes(shape)) == n_anchors


def test_at_first_every_anchor_is_background_with_confidence_99_percent():
    torch.manual_seed(0)
    network = Network("resnet18", n_classes=2, weights=None).eval()
    with torch.inference_mode():
        logits, deltas = network(torch.randn(1, 3, 64, 64))
    assert logits.sigmoid().mean() == pytest.approx(0.01, rel=0.1)
    assert deltas.abs().mean() < 0.1
    layers = [*network.class_head.conv.modules(), *network.box_head.modules()]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 9
    for layer in convolutions:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert (layer.bias == 0).all()


@pytest.mark.parametrize("norm", [True, False])
def test_heads_have_a_norm_after_every_convolution_of_their_towers_or_none(norm):
    network = Network(Architecture("resnet18", head_norm=norm), n_classes=2, weights=None)
    for head in (network.class_head, network.box_head):
        norms = [layer.num_groups for layer in head.modules() if isinstance(layer, nn.GroupNorm)]
        assert norms == [32] * 4 * norm
        assert all((layer[0].bias is None) == norm for layer in head.conv)


def test_a_head_keeps_statistics_of_each_level():
    head = Network(Architecture("resnet18", head_norm="batch", width=8, depth=2), n_classes=2, weights=None).class_head
    levels = [torch.randn(2, 8, side, side) for side in (16, 8, 4, 2, 1)]
    head.train()(levels)
    assert [[int(norm.num_batches_tracked) for norm in norms] for norms in head.norms] == [[1, 1]] * 5
    assert len({float(norms[0].running_var.sum()) for norms in head.norms}) == 5
    head.eval()(levels)
    assert int(head.norms[0][0].num_batches_tracked) == 1


def test_a_level_of_a_single_value_takes_the_running_statistics():
    head = Network(Architecture("resnet18", head_norm="batch", width=8, depth=2), n_classes=2, weights=None).box_head
    levels = [torch.randn(1, 8, 1, 1)] * 5
    torch.testing.assert_close(head.train()(levels), head.eval()(levels))


def seasoned(**changes) -> Network:
    """A network with batch norms in its heads that have seen something."""
    torch.manual_seed(0)
    network = Network(Architecture("resnet18", head_norm="batch", **changes), n_classes=2, weights=None)
    for head in (network.class_head, network.box_head):
        for convolution in (layer for layer in head.modules() if isinstance(layer, nn.Conv2d)):
            nn.init.kaiming_normal_(convolution.weight)
    network.train()(torch.randn(2, 3, 128, 128))
    return network.eval()


def test_heads_answer_alike_for_the_same_ground_in_windows_of_any_size():
    # Levels of windows of 256 and 1,024 px; a tower of five 3x3 convolutions sees five cells around.
    network, noise = seasoned(width=32), torch.Generator().manual_seed(1)
    large = [torch.randn(1, 32, side, side, generator=noise) for side in (128, 64, 32, 16, 8)]
    first, size, reach = 3, 1 / 4, 5
    for number, level in enumerate(large[:2]):
        side = int(size * level.shape[2])
        inside = slice(first, first + side)
        for head in (network.class_head, network.box_head):
            with torch.inference_mode():
                whole = head.out(head._tower(number, level))[:, :, inside, inside]
                window = head.out(head._tower(number, level[:, :, inside, inside]))
            kept = slice(reach, side - reach)
            torch.testing.assert_close(window[:, :, kept, kept], whole[:, :, kept, kept], rtol=1e-4, atol=1e-4)


def test_folded_heads_answer_the_same_at_the_cost_of_heads_without_norms():
    network, pictures = seasoned(width=32), torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        expected = network(pictures)
        for head in (network.class_head, network.box_head):
            head.fold_norms()
        torch.testing.assert_close(network(pictures), expected, rtol=1e-3, atol=1e-4)
    layers = {type(layer) for head in (network.class_head, network.box_head) for layer in head.folded.modules()}
    assert layers == {nn.ModuleList, nn.Sequential, nn.Conv2d, nn.ReLU}


def test_fixed_norms_learn_but_keep_their_statistics():
    network = seasoned(width=8, depth=1).train()
    network.fix_head_norms()
    norm = network.class_head.norms[0][0]
    before = norm.running_mean.clone()
    sum(x.sum() for x in network(torch.randn(2, 3, 64, 64))).backward()
    assert torch.equal(norm.running_mean, before)
    assert norm.weight.grad.abs().sum() > 0
    assert network.backbone.training
    assert network.train().class_head.norms[0][0].training


def test_width_and_depth_are_those_of_pyramid_and_heads():
    network = Network(Architecture("resnet18", width=96, depth=2), n_classes=2, weights=None)
    assert (network.architecture.width, network.architecture.depth) == (96, 2)
    with torch.inference_mode():
        assert {level.shape[1] for level in network.pyramid(network.backbone(torch.zeros(1, 3, 64, 64)))} == {96}
    assert [block[0].weight.shape[:2] for block in network.box_head.conv] == [(96, 96)] * 2
    with pytest.raises(ArgumentError, match="width must be a whole number of at least 1; got 0"):
        Network(Architecture("resnet18", width=0), n_classes=2, weights=None)


def test_a_normed_head_says_the_same_of_a_level_however_loud_it_is():
    torch.manual_seed(0)
    heads = [
        Network(Architecture("resnet18", head_norm=norm), n_classes=2, weights=None).class_head
        for norm in (True, False)
    ]
    level = torch.randn(1, 256, 8, 8)
    with torch.inference_mode():
        deaf, hearing = (head([level, 100 * level]).chunk(2, dim=1) for head in heads)
    assert torch.allclose(*deaf, atol=1e-3)
    assert not torch.allclose(*hearing, atol=1e-3)


def test_training_and_evaluation_answer_alike(network):
    pictures = torch.randn(2, 3, 64, 64)
    evaluated = network(pictures)
    trained = network.train()(pictures)
    network.eval()
    assert [x.shape for x in evaluated] == [x.shape for x in trained]


def test_a_batch_is_its_pictures(network):
    pictures = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        together = network(pictures)
        singly = [network(picture[None]) for picture in pictures]
    for i, answers in enumerate(zip(*singly, strict=True)):
        torch.testing.assert_close(together[i], torch.cat(answers), rtol=1e-4, atol=1e-4)


def test_memory_format_changes_nothing_and_is_kept(network):
    pictures = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network(pictures)
        last = network.to(memory_format=torch.channels_last)
        maps = last.backbone(pictures.contiguous(memory_format=torch.channels_last))
        got = last(pictures.contiguous(memory_format=torch.channels_last))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_a_network_that_learns_one_chip_finds_its_boxes():
    torch.manual_seed(0)
    slim = Architecture("resnet18", anchors=AnchorSpec(scales=(1.0,)), width=96, depth=2)
    network = Network(slim, n_classes=2, weights=None)
    pictures, shape = torch.randn(1, 3, 64, 64) / 10, (64, 64)
    boxes, labels = torch.tensor([[[4.0, 8, 32, 36], [36, 26, 60, 60], [0, 0, 0, 0]]]), torch.tensor([[0, 1, -1]])
    for i, (x1, y1, x2, y2) in enumerate(boxes[0, :2].int().tolist()):
        pictures[0, i, y1:y2, x1:x2] = 2
    anchors, optimiser = network.anchors(shape), torch.optim.Adam(network.parameters(), 5e-4)
    for _ in range(30):
        optimiser.zero_grad()
        sum(Loss()(*network(pictures), anchors, boxes, labels)).backward()
        optimiser.step()
    with torch.inference_mode():
        logits, deltas = network(pictures)
    (found,) = suppress(select_candidates(logits, deltas, anchors, shape, level_sizes=network.level_sizes(shape)), 0.5)
    for i in range(2):
        best = found[found.labels == i].xyxy[0]
        assert abs(best - boxes[0, i].numpy()).max() < 8


def test_anchors_are_kept_and_may_be_trained_with(network):
    with torch.inference_mode():
        first = network.anchors((64, 32))
    assert network.anchors((64, 32)) is first
    assert not first.is_inference()


def test_batch_norms_add_what_they_are_told(network):
    network.set_norm_eps(0.0)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {layer.eps for layer in norms} == {0.0}
    network.set_norm_eps(1e-5)
    assert network.architecture.norm_eps == 1e-5


def test_norms_that_add_nothing_stay_frozen():
    network = Network("resnet18", n_classes=1, weights=None)
    network.set_norm_eps(0.0)
    network.freeze_backbone(False)
    of_norms = {id(p) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()}
    assert all(p.requires_grad == (id(p) not in of_norms) for p in network.parameters())
    network.set_norm_eps(1e-5)
    network.freeze_backbone(True)
    assert {p.requires_grad for p in network.backbone.parameters()} == {False}
    network.freeze_backbone(False)
    assert all(p.requires_grad for p in network.parameters())


def test_a_finer_level_looks_at_a_map_of_stride_4():
    network = Network(Architecture("resnet18", anchors=AnchorSpec(levels=(2, 7))), n_classes=1, weights=None).eval()
    with torch.inference_mode():
        levels = network.pyramid(network.backbone(torch.zeros(1, 3, 128, 256)))
    assert [tuple(level.shape[2:]) for level in levels] == [(32, 64), (16, 32), (8, 16), (4, 8), (2, 4), (1, 2)]


def test_impossible_networks_are_refused():
    with pytest.raises(ArgumentError, match="at least 1 class; got n_classes=0"):
        Network("resnet18", n_classes=0)


def test_precision_is_what_the_word_says():
    cpu = torch.device("cpu")
    assert resolve("float32", cpu) == torch.float32
    assert resolve("bf16", cpu) == torch.bfloat16
    assert resolve("auto", cpu) in {torch.float32, torch.bfloat16}
    with pytest.raises(ArgumentError, match=r'"bf16", "float16" or "int8"; got .half.'):
        resolve("half", cpu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_context_computes_in_that_precision(network, dtype):
    with torch.inference_mode(), autocast(dtype, torch.device("cpu")):
        logits, deltas = network(torch.zeros(1, 3, 32, 32))
    assert logits.dtype == deltas.dtype == dtype


@pytest.mark.parametrize("moment", ["__enter__", "__exit__"])
def test_an_interrupt_leaves_no_precision_behind(monkeypatch, moment):
    usual, cpu = getattr(torch.autocast, moment), torch.device("cpu")

    def interrupted(self, *args):
        if moment == "__enter__":
            usual(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.autocast, moment, interrupted)
    with pytest.raises(KeyboardInterrupt), autocast(torch.bfloat16, cpu):
        pass
    monkeypatch.undo()
    assert not torch.is_autocast_enabled("cpu")
    assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.float32
    assert torch.autocast_increment_nesting() == 1
    assert torch.autocast_decrement_nesting() == 0


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_gradients_of_the_coarse_levels_are_the_same_in_bf16(cells: int) -> None:
    # A strided convolution over a map of one cell had a gradient of uninitialised memory in bf16.
    noise = torch.Generator().manual_seed(0)
    pyramid = Pyramid([8, 8, 8]).to(memory_format=torch.channels_last)
    maps = [torch.randn(2, 8, cells * n, cells * n, generator=noise) for n in (4, 2, 1)]
    gradients = []
    for enabled in (False, True):
        pyramid.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            levels = pyramid([x.contiguous(memory_format=torch.channels_last) for x in maps])
        sum(level.float().square().sum() for level in levels).backward()
        gradients.append([layer.weight.grad.clone() for layer in pyramid.fpn.extra_blocks.children()])
    for exact, ours in zip(*gradients, strict=True):
        assert (ours - exact).norm() < 0.05 * exact.norm()
