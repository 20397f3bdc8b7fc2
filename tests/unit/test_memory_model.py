"""The memory model against the networks that are built, against autograd and against torch's optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from siccs_net.losses import DeepSupervisionLoss, DiceCrossEntropyLoss, FocalDiceLoss, deep_supervision_weights
from siccs_net.networks.blocks import ConvNeXtBlock
from siccs_net.networks.build import build_network
from siccs_net.planners.activations import kept_bytes, loss_bytes
from siccs_net.planners.convnext_rules import plan_convnext
from siccs_net.planners.drafts import DatasetShape
from siccs_net.planners.memory import inference_memory, training_memory
from siccs_net.planners.nnunet_rules import plan_nnunet
from siccs_net.planners.parameters import parameter_count
from siccs_net.records.network import NetworkSpec


def convnext(dimension: int = 3, **changes: object) -> NetworkSpec:
    ones, twos = (1,) * dimension, (2,) * dimension
    settings: dict[str, object] = {
        "architecture": "convnext_unet",
        "dimension": dimension,
        "in_channels": 2,
        "classes": 4,
        "widths": (8, 16, 16),
        "strides": (ones, (1, *twos[1:]), twos),
        "kernel_sizes": ((3, *(5,) * (dimension - 1)), (5,) * dimension, (7,) * dimension),
        "blocks_encoder": (1, 2, 1),
        "blocks_decoder": (2, 1, 1),
        "stem_stride": twos,
        "deep_supervision": True,
    }
    return NetworkSpec.model_validate(settings | changes)


def nnunet(architecture: str, dimension: int = 3) -> NetworkSpec:
    ones, twos = (1,) * dimension, (2,) * dimension
    return NetworkSpec.model_validate(
        {
            "architecture": architecture,
            "dimension": dimension,
            "in_channels": 2,
            "classes": 3,
            "widths": (8, 16, 16),
            "strides": (ones, (1, *twos[1:]), twos),
            "kernel_sizes": ((1, *(3,) * (dimension - 1)), (3,) * dimension, (3,) * dimension),
            "blocks_encoder": (2, 1, 2),
            "blocks_decoder": (2, 1),
            "stem_stride": ones,
            "deep_supervision": True,
        }
    )


def variants() -> Iterator[NetworkSpec]:
    for dimension, stem, upsampling, supervised in itertools.product(
        (2, 3), (1, 2), ("transposed", "linear"), (True, False)
    ):
        stem_stride = (1, *(stem,) * (dimension - 1))
        yield convnext(dimension, stem_stride=stem_stride, upsampling=upsampling, deep_supervision=supervised)
    for architecture, dimension in itertools.product(("plain_unet", "resenc_unet"), (2, 3)):
        yield nnunet(architecture, dimension)


def described(spec: NetworkSpec) -> str:
    extra = f"-stem{spec.stem_stride[-1]}-{spec.upsampling}-{spec.deep_supervision}"
    return f"{spec.architecture}-{spec.dimension}d{extra if spec.architecture == 'convnext_unet' else ''}"


def patch(spec: NetworkSpec) -> tuple[int, ...]:
    return (16, 32, 32) if spec.dimension == 3 else (64, 96)


def built_parameters(spec: NetworkSpec) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(spec).parameters())


def saved_by_autograd(network: nn.Module, image: Tensor, loss: nn.Module | None = None) -> int:
    """Bytes of all tensors that the forward pass keeps for the backward pass, but the parameters; each once.

    Blocks run operation by operation, as on a GPU, for which the model is made.
    """
    for block in network.modules():
        if isinstance(block, ConvNeXtBlock):
            block.fused = False
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(image)
        if loss is not None:
            loss(outputs, torch.zeros((len(image), *image.shape[2:]), dtype=torch.int64))
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("spec", list(variants()), ids=described)
def test_parameters_equal_the_built_networks(spec: NetworkSpec) -> None:
    assert parameter_count(spec) == built_parameters(spec)


@pytest.mark.parametrize(
    "changes",
    [
        {"mlp_ratio": 2},
        {"classes": 9},
        {
            "widths": (8,),
            "strides": ((1, 1, 1),),
            "kernel_sizes": ((3, 3, 3),),
            "blocks_encoder": (1,),
            "blocks_decoder": (1,),
        },
    ],
    ids=["mlp_ratio", "more classes than half the width", "one level"],
)
def test_parameters_of_unusual_networks(changes: dict[str, object]) -> None:
    assert parameter_count(convnext(**changes)) == built_parameters(convnext(**changes))


def test_parameters_of_planned_networks() -> None:
    shape = DatasetShape(((5.0, 0.7, 0.7),), ((60, 512, 512),), 40, 4, 1)
    plans = [plan_convnext(shape), plan_nnunet(shape, "nnunet"), plan_nnunet(shape, "nnunet_resenc_m")]
    for plan in plans:
        for draft in plan.configurations.values():
            assert parameter_count(draft.network) == built_parameters(draft.network)


def test_a_convnext_block_by_hand() -> None:
    one = convnext(stem_stride=(1, 1, 1))
    more = convnext(stem_stride=(1, 1, 1), blocks_encoder=(2, 2, 1))
    # depthwise 8 x 75 + 8, LayerNorm 16, expand 8 x 32 + 32, GRN 64, project 32 x 8 + 8
    assert parameter_count(more) - parameter_count(one) == 608 + 16 + 288 + 64 + 264


def test_the_papers_network_by_hand() -> None:
    widths = (32, 64, 128, 256)
    spec = convnext(
        in_channels=1,
        widths=widths,
        strides=((1, 1, 1), *((2, 2, 2),) * 3),
        kernel_sizes=((7, 7, 7),) * 4,
        blocks_encoder=(1, 1, 3, 1),
        blocks_decoder=(1, 1, 3, 1),
        stem_stride=(1, 1, 1),
        deep_supervision=False,
    )
    block = {width: 343 * width + width + 2 * width + 8 * width**2 + 5 * width + 8 * width for width in widths}
    blocks = 2 * (block[32] + block[64] + 3 * block[128] + block[256])
    steps = sum(2 * fine + 16 * fine**2 + 2 * fine + 16 * fine**2 + fine + 2 * fine**2 + fine for fine in widths[:3])
    assert parameter_count(spec) == 27 * 32 + 32 + blocks + steps + 4 * 32 + 4


@pytest.mark.parametrize("spec", list(variants()), ids=described)
def test_activations_are_what_autograd_saves_in_float32(spec: NetworkSpec) -> None:
    network = build_network(spec).train()
    image = torch.zeros((1, spec.in_channels, *patch(spec)))
    expected = saved_by_autograd(network, image)
    # A CPU keeps one copy more where it changes the memory layout; index and statistics tensors are left out.
    assert kept_bytes(spec, patch(spec), 4, checkpointing=False) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("loss", [DiceCrossEntropyLoss(batch_dice=True), FocalDiceLoss()], ids=["dice_ce", "focal"])
@pytest.mark.parametrize("supervised", [True, False])
def test_the_loss_keeps_no_more_than_estimated(loss: nn.Module, supervised: bool) -> None:
    spec = convnext(2, deep_supervision=supervised)
    network, image = build_network(spec).train(), torch.zeros((1, 2, *patch(spec)))
    outputs = 1 + supervised * (len(spec.widths) - 1)
    whole = DeepSupervisionLoss(loss, deep_supervision_weights(outputs, drop_last=False))
    measured = saved_by_autograd(network, image, whole) - saved_by_autograd(network, image)
    assert 0.5 < measured / loss_bytes(spec, patch(spec), 4) <= 1.0


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_keeps_its_samples(batch: int) -> None:
    spec = convnext()
    one = training_memory(spec, (16, 32, 32), 1, activation_bytes=4, checkpointing=False)
    many = training_memory(spec, (16, 32, 32), batch, activation_bytes=4, checkpointing=False)
    assert many.activation_bytes == batch * one.activation_bytes
    assert many.optimizer_bytes == one.optimizer_bytes


def test_optimizer_state_is_that_of_adamw_with_amsgrad() -> None:
    spec = convnext(2)
    network = build_network(spec).train()
    optimizer = torch.optim.AdamW(network.parameters(), amsgrad=True)
    sum(output.sum() for output in network(torch.zeros((1, 2, 32, 32)))).backward()
    optimizer.step()
    tensors = [tensor for state in optimizer.state.values() for name, tensor in state.items() if name != "step"]
    memory = training_memory(spec, (32, 32), 1, activation_bytes=4, checkpointing=False)
    assert memory.optimizer_bytes == sum(tensor.nbytes for tensor in tensors)
    assert memory.gradient_bytes == sum(parameter.grad.nbytes for parameter in network.parameters())
    assert memory.parameter_bytes == sum(parameter.nbytes for parameter in network.parameters())


def test_half_precision_halves_what_only_it_holds() -> None:
    spec = nnunet("plain_unet")
    full = kept_bytes(spec, (16, 32, 32), 4, checkpointing=False)
    half = kept_bytes(spec, (16, 32, 32), 2, checkpointing=False)
    image = 2 * 16 * 32 * 32
    assert half - 6 * image == (full - 4 * image) / 2


def test_a_block_under_autocast_by_hand() -> None:
    one = convnext(stem_stride=(1, 1, 1))
    more = convnext(stem_stride=(1, 1, 1), blocks_encoder=(2, 2, 1))
    extra = kept_bytes(more, (16, 32, 32), 2, checkpointing=False)
    extra -= kept_bytes(one, (16, 32, 32), 2, checkpointing=False)
    # input, LayerNorm's input (float32) and output; before GELU, twice after it in float32, after GRN; two statistics
    assert extra == 16 * 32 * 32 * (8 * (2 + 4 + 2) + 32 * (2 + 4 + 4 + 2) + 8)


@pytest.mark.parametrize("spec", list(variants()), ids=described)
def test_checkpointing_and_prediction_take_less(spec: NetworkSpec) -> None:
    plain = training_memory(spec, patch(spec), 2, activation_bytes=2, checkpointing=False)
    recomputed = training_memory(spec, patch(spec), 2, activation_bytes=2, checkpointing=True)
    prediction = inference_memory(spec, patch(spec))
    assert recomputed.activation_bytes < plain.activation_bytes
    assert prediction.total_bytes < recomputed.total_bytes
    assert prediction.parameters == plain.parameters == parameter_count(spec)


def test_the_total_is_the_sum_of_the_parts() -> None:
    memory = training_memory(convnext(), (16, 32, 32), 2, activation_bytes=2, checkpointing=False)
    parts = memory.parameter_bytes + memory.gradient_bytes + memory.optimizer_bytes
    assert memory.total_bytes == parts + memory.activation_bytes + memory.workspace_bytes
    assert memory.parameter_bytes == memory.parameters * 6
