"""The three networks: sizes, outputs, parameters, activations, initialisation, memory layout, reproducibility."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from siccs_net.errors import UsageError
from siccs_net.losses import DeepSupervisionLoss, DiceCrossEntropyLoss, deep_supervision_weights
from siccs_net.networks import blocks
from siccs_net.networks.blocks import CHANNELS_LAST, Conv3d, ConvNeXtBlock, LinearUpsampling, StochasticDepth
from siccs_net.networks.build import build_network, output_strides
from siccs_net.networks.shapes import feature_shapes
from siccs_net.planners.parameters import parameter_count
from siccs_net.records.network import NetworkSpec

PAPER = NetworkSpec(
    architecture="convnext_unet",
    dimension=3,
    in_channels=1,
    classes=4,
    widths=(32, 64, 128, 256),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
    kernel_sizes=((7, 7, 7),) * 4,
    blocks_encoder=(1, 1, 3, 1),
    blocks_decoder=(1, 1, 3, 1),
    stem_stride=(1, 1, 1),
    deep_supervision=False,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: threads would only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def describe(architecture: str, dimension: int = 3, **changes: Any) -> NetworkSpec:
    """A small network of three levels, anisotropic in 3D."""
    flat = dimension == 2
    settings: dict[str, Any] = {
        "architecture": architecture,
        "dimension": dimension,
        "in_channels": 2,
        "classes": 3,
        "widths": (8, 12, 16),
        "strides": ((1, 1), (2, 2), (2, 2)) if flat else ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        "kernel_sizes": ((3, 3),) * 3 if flat else ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        "blocks_encoder": (1, 2, 1),
        "blocks_decoder": (1, 2, 1) if architecture == "convnext_unet" else (2, 1),
        "stem_stride": (1,) * dimension,
        "deep_supervision": True,
    }
    return NetworkSpec(**{**settings, **changes})


STEM = {2: (2, 2), 3: (1, 2, 2)}
SPECS = {
    f"{architecture} {dimension}D{' strided' if strided else ''}": describe(
        architecture, dimension, stem_stride=STEM[dimension] if strided else (1,) * dimension
    )
    for architecture in ("convnext_unet", "plain_unet", "resenc_unet")
    for dimension in (2, 3)
    for strided in ([False, True] if architecture == "convnext_unet" else [False])
}
every_network = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def image(spec: NetworkSpec, batch: int = 2) -> Tensor:
    """A random image of twice the smallest size on each axis, [b, c, *spatial]."""
    sizes = [2 * stride for stride in spec.total_stride]
    return torch.randn(batch, spec.in_channels, *sizes, generator=torch.Generator().manual_seed(5))


def gradient(network: nn.Module, images: Tensor) -> Tensor:
    """The flat gradient of a fixed function of all outputs."""
    network.zero_grad(set_to_none=True)
    outputs = network(images)
    sum(logits.float().sin().sum() for logits in outputs).backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def test_the_papers_sizes() -> None:
    """320x320x40 to 40x40x5 over four resolutions, axes z, y, x."""
    assert feature_shapes(PAPER, (40, 320, 320)) == [(40, 320, 320), (20, 160, 160), (10, 80, 80), (5, 40, 40)]


@every_network
def test_outputs(spec: NetworkSpec) -> None:
    network, images = build_network(spec), image(spec)
    size = images.shape[2:]
    outputs = network.train()(images)
    expected = [tuple(n // s for n, s in zip(size, stride, strict=True)) for stride in output_strides(spec)]
    assert [tuple(logits.shape) for logits in outputs] == [(2, 3, *each) for each in expected]
    assert expected[0] == tuple(size)
    assert expected[-1] == feature_shapes(spec, size)[-2]
    logits = network.eval()(images)
    assert logits.shape == (2, 3, *size)
    torch.testing.assert_close(logits, outputs[0])


@every_network
def test_without_deep_supervision(spec: NetworkSpec) -> None:
    single = spec.model_copy(update={"deep_supervision": False})
    assert output_strides(single) == ((1,) * spec.dimension,)
    assert build_network(single).train()(image(spec)).shape == (2, 3, *image(spec).shape[2:])


@every_network
def test_feature_shapes_are_what_the_encoder_makes(spec: NetworkSpec) -> None:
    network, images, found = build_network(spec), image(spec), []
    for level in network.encoder:
        level.register_forward_hook(lambda _module, _inputs, output: found.append(tuple(output.shape[2:])))
    network(images)
    assert found == feature_shapes(spec, images.shape[2:])


@every_network
@pytest.mark.parametrize("supervised", [True, False])
def test_parameter_count(spec: NetworkSpec, supervised: bool) -> None:
    changed = spec.model_copy(update={"deep_supervision": supervised})
    assert sum(parameter.numel() for parameter in build_network(changed).parameters()) == parameter_count(changed)


@pytest.mark.parametrize("changes", [{"upsampling": "linear"}, {"classes": 9}, {"mlp_ratio": 2}])
def test_parameter_count_of_convnext_settings(changes: dict[str, Any]) -> None:
    spec = describe("convnext_unet", stem_stride=(1, 2, 2), **changes)
    assert sum(parameter.numel() for parameter in build_network(spec).parameters()) == parameter_count(spec)


@pytest.mark.parametrize("widths", [(8, 12, 16), (8, 16, 16)])
@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("architecture", ["plain_unet", "resenc_unet"])
def test_activation_elements_follow_nnunets_closed_form(
    architecture: str, dimension: int, widths: tuple[int, ...]
) -> None:
    """nnU-Net 2.8.1 counts what convolutions write, one sample, without deep supervision.

    A projection skip counts once a strided level, also where it is pooling alone because the width stays.
    """
    spec = describe(architecture, dimension, widths=widths, deep_supervision=False)
    network, images = build_network(spec), image(spec, batch=1)
    written = [0]

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        written[0] += output.numel()

    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            module.register_forward_hook(count)
        if isinstance(module, nn.Sequential) and len(module) == 1 and "AvgPool" in type(module[0]).__name__:
            module.register_forward_hook(count)
    network(images)
    volumes = [math.prod(shape) for shape in feature_shapes(spec, images.shape[2:])]
    assert written[0] == closed_form(spec, volumes)


def closed_form(spec: NetworkSpec, volumes: list[int]) -> int:
    maps = [width * volume for width, volume in zip(spec.widths, volumes, strict=True)]
    encoder = sum(n * size for n, size in zip(spec.blocks_encoder, maps, strict=True))
    if spec.architecture == "resenc_unet":
        encoder = maps[0] + 2 * encoder + sum(maps[1:])
    decoder = sum((n + 1) * size for n, size in zip(spec.blocks_decoder, maps, strict=False))
    return encoder + decoder + spec.classes * volumes[0]


@every_network
def test_wrong_size_names_the_multiple(spec: NetworkSpec) -> None:
    images = image(spec)
    with pytest.raises(UsageError, match=rf"multiple of \[{', '.join(map(str, spec.total_stride))}\]"):
        build_network(spec)(functional.pad(images, (0, 1)))


def test_feature_shapes_refuses_what_the_network_would() -> None:
    with pytest.raises(UsageError, match=r"found \[44, 320, 320\]; expected a multiple of \[8, 8, 8\]"):
        feature_shapes(PAPER, (44, 320, 320))
    with pytest.raises(UsageError, match="multiple"):
        feature_shapes(PAPER, (320, 320))


@pytest.mark.parametrize(
    "changes", [{"stem_stride": (1, 2, 2)}, {"stochastic_depth": 0.1}, {"upsampling": "linear"}], ids=str
)
@pytest.mark.parametrize("architecture", ["plain_unet", "resenc_unet"])
def test_nnunets_networks_refuse_convnext_settings(architecture: str, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        build_network(describe(architecture, **changes))


@every_network
def test_checkpointing_changes_no_gradient(spec: NetworkSpec) -> None:
    if spec.architecture == "convnext_unet":
        spec = spec.model_copy(update={"stochastic_depth": 0.5})
    network, images, found = build_network(spec).train(), image(spec), []
    for network.checkpointing in (False, True):
        torch.manual_seed(0)
        found.append(gradient(network, images))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_checkpointing_keeps_less() -> None:
    """Numbers that autograd holds after the forward pass, each memory counted once."""
    spec = describe("convnext_unet", 3, blocks_encoder=(3, 3, 3), blocks_decoder=(3, 3, 3))
    network, kept = build_network(spec).train(), []
    for network.checkpointing in (False, True):
        held: dict[int, Tensor] = {}

        def hold(tensor: Tensor, held: dict[int, Tensor] = held) -> Tensor:
            held[tensor.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
            network(image(spec))
        kept.append(sum(tensor.numel() for tensor in held.values()))
    assert kept[1] < 0.5 * kept[0]


def test_stochastic_depth_rises_linearly_in_the_order_of_running() -> None:
    network = build_network(describe("convnext_unet", 2, stochastic_depth=0.35)).train()
    order: list[float] = []
    for block in network.modules():
        if isinstance(block, ConvNeXtBlock):
            block.register_forward_hook(lambda module, _inputs, _output: order.append(module.stochastic_depth.rate))
    network(image(network.spec))
    assert order == pytest.approx([0.05 * number for number in range(8)])


def test_stochastic_depth_drops_samples_and_keeps_the_mean() -> None:
    layer, ones = StochasticDepth(0.25), torch.ones(4000, 2, 3)
    torch.manual_seed(3)
    dropped = layer(ones)
    torch.manual_seed(3)
    assert torch.equal(dropped, layer(ones))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)
    assert layer.eval()(ones) is ones


def test_convnext_initialisation() -> None:
    network = build_network(describe("convnext_unet", widths=(32, 48, 64), stem_stride=(1, 2, 2)))
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or ".grn." in name:
            assert not parameter.any(), name
        elif "norm" in name or parameter.ndim == 1:
            assert bool((parameter == 1).all()), name
        elif parameter.numel() > 2000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize("architecture", ["plain_unet", "resenc_unet"])
def test_he_initialisation(architecture: str) -> None:
    network = build_network(describe(architecture, widths=(32, 48, 64)))
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            fan_in = math.prod(module.weight.shape[1:])
            if module.weight.numel() > 2000:
                expected = math.sqrt(2 / (1 + 0.01**2) / fan_in)
                assert module.weight.std().item() == pytest.approx(expected, rel=0.1), name
            assert module.bias is None or not module.bias.any(), name


def test_a_new_residual_block_is_its_skip() -> None:
    network = build_network(describe("resenc_unet"))
    block = network.encoder[1][1]
    x = torch.randn(1, 12, 4, 6, 6)
    assert torch.equal(block(x), functional.leaky_relu(x, 0.01))


@pytest.mark.parametrize("name", [name for name in SPECS if name.startswith("convnext")])
def test_activations_stay_in_channels_last_memory(name: str) -> None:
    """So that LayerNorm and the pointwise layers see views: no block's input or gradient is copied."""
    spec = SPECS[name]
    wanted = {2: torch.channels_last, 3: torch.channels_last_3d}[spec.dimension]
    network, seen = build_network(spec).train(), []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend(tensor.is_contiguous(memory_format=wanted) for tensor in (*inputs, output))
        output.register_hook(lambda grad: seen.append(grad.is_contiguous(memory_format=wanted)))

    for module in network.modules():
        if isinstance(module, ConvNeXtBlock):
            module.register_forward_hook(look)
    gradient(network, image(spec))
    assert len(seen) == 8 * 3
    assert all(seen)


def test_linear_upsampling_commutes_with_its_pointwise_convolution() -> None:
    layer, x = LinearUpsampling(5, 3, (1, 2, 2)), torch.randn(2, 5, 3, 4, 5)
    big = functional.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="trilinear", align_corners=False)
    torch.testing.assert_close(layer(x), layer.pointwise(big), rtol=1e-5, atol=1e-6)
    spec = describe("convnext_unet", stem_stride=(1, 2, 2), upsampling="linear")
    assert build_network(spec).eval()(image(spec)).shape[2:] == image(spec).shape[2:]


@every_network
def test_same_seed_same_bits(spec: NetworkSpec) -> None:
    """Under deterministic algorithms, network and loss give the same gradient bit for bit."""
    images, found = image(spec), []
    target = (images[:, 0] > 0).long() + (images[:, 1] > 1).long()
    weights = deep_supervision_weights(len(output_strides(spec)), drop_last=False)
    loss = DeepSupervisionLoss(DiceCrossEntropyLoss(), weights)
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            torch.manual_seed(11)
            network = build_network(spec).train()
            loss(network(images), target).backward()
            found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found[0], found[1])


@every_network
def test_bfloat16_gradient_points_the_same_way(spec: NetworkSpec) -> None:
    torch.manual_seed(0)
    network, images = build_network(spec).train(), image(spec)
    exact = gradient(network, images)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(images)
        assert all(logits.dtype is torch.bfloat16 for logits in outputs)
        rough = gradient(network, images)
    assert float(functional.cosine_similarity(exact, rough, dim=0)) > 0.98


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_thin_bfloat16_convolutions_have_the_right_gradient(depth: int, stride: int) -> None:
    """torch's own conv3d gave NaN here in nearly every try at depth 2, once freed memory held NaN."""
    for seed in range(10):
        torch.manual_seed(seed)
        conv, x = Conv3d(16, 16, 3, stride, 1), torch.randn(2, 16, depth, 4, 4).bfloat16().float()
        kinds = (torch.float32, torch.bfloat16)
        freed = [torch.full((size,), float("nan"), dtype=kind) for size in (6912, 1 << 14) for kind in kinds]
        del freed
        found = []
        for enabled in (False, True):
            conv.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                y = conv(x)
            (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
            found.append(conv.weight.grad.flatten().clone())
        assert float(functional.cosine_similarity(*found, dim=0)) > 0.99


@every_network
def test_learns(spec: NetworkSpec) -> None:
    """Forty steps halve the cross-entropy of a threshold on the image itself."""
    torch.manual_seed(0)
    network, images = build_network(spec).train(), image(spec)
    target = (images[:, 0] > 0).long()
    outputs = len(output_strides(spec))
    loss = DeepSupervisionLoss(nn.CrossEntropyLoss(), (1.0,) + (0.0,) * (outputs - 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        value = loss(network(images), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("kind", "shape"), [(2, (2, 5, 6, 7)), (3, (2, 5, 4, 6, 3))])
@pytest.mark.parametrize("channels_last", [False, True])
def test_upsampling_by_a_product_is_the_transposed_convolution(kind, shape, channels_last):
    stride = (2, 3, 1)[:kind] if kind == 3 else (2, 3)
    own = blocks.TRANSPOSED_CONV[kind](shape[1], 4, stride, stride).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    given = x.contiguous(memory_format=CHANNELS_LAST[kind]) if channels_last else x
    convolve = torch.nn.functional.conv_transpose2d if kind == 2 else torch.nn.functional.conv_transpose3d
    expected = convolve(given, own.weight, own.bias, stride)
    torch.testing.assert_close(own(given), expected)
    above = torch.randn_like(expected)
    ours = torch.autograd.grad(own(given), [x, own.weight, own.bias], above)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, [x, own.weight, own.bias], above))


def test_merging_is_the_convolution_of_both_inputs_joined():
    merge = blocks.MergingConv(8, 3).double()
    one, other = torch.randn(2, 5, 4, 3, 6, dtype=torch.float64), torch.randn(2, 3, 4, 3, 6, dtype=torch.float64)
    joined = blocks.PointwiseConv.forward(merge, torch.cat([one, other], 1))
    torch.testing.assert_close(merge(one, other), joined)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_single_channel_takes_the_same_convolution(stride):
    conv = blocks.Conv3d(1, 6, 3, stride, padding=1)
    x = torch.randn(1, 1, 9, 8, 7, requires_grad=True)
    assert blocks.is_single_channel(x)
    expected = torch.nn.functional.conv3d(x, conv.weight, conv.bias, stride, 1)
    torch.testing.assert_close(conv(x), expected)
    ours = torch.autograd.grad(conv(x).square().sum(), [x, conv.weight, conv.bias])
    torch.testing.assert_close(ours, torch.autograd.grad(expected.square().sum(), [x, conv.weight, conv.bias]))
