"""From a plan's description of a network to the network."""

from __future__ import annotations

from torch import nn

from siccs_net.errors import UsageError
from siccs_net.networks.convnext_unet import ConvNeXtUNet
from siccs_net.networks.plain_unet import PlainUNet
from siccs_net.networks.resenc_unet import ResidualEncoderUNet
from siccs_net.networks.shapes import Sizes, is_strided, level_strides
from siccs_net.records.network import NetworkSpec

_ARCHITECTURES: dict[str, type[ConvNeXtUNet] | type[PlainUNet] | type[ResidualEncoderUNet]] = {
    "convnext_unet": ConvNeXtUNet,
    "plain_unet": PlainUNet,
    "resenc_unet": ResidualEncoderUNet,
}


def build_network(spec: NetworkSpec) -> nn.Module:
    """Return the network that `spec` describes, freshly initialised from torch's global generator.

    It maps images [b, channels, *patch] to logits [b, classes, *patch], a list of them while training under deep
    supervision (`output_strides`). Raises UsageError for a setting that the architecture does not have.
    """
    if spec.architecture != "convnext_unet":
        _refuse_convnext_settings(spec)
    return _ARCHITECTURES[spec.architecture](spec)


def output_strides(spec: NetworkSpec) -> tuple[Sizes, ...]:
    """Return the downsampling of each output that the network gives while training, in the order of its list.

    The first output has the input's size. Under deep supervision the other decoder levels follow, finest first,
    without the bottleneck.
    """
    full = (1,) * spec.dimension
    if not spec.deep_supervision:
        return (full,)
    first = 0 if is_strided(spec) else 1
    return (full, *level_strides(spec)[first:-1])


def _refuse_convnext_settings(spec: NetworkSpec) -> None:
    """The two networks of nnU-Net have no strided stem, stochastic depth or linear upsampling, and need two levels."""
    wrong = {
        "stem_stride": is_strided(spec),
        "stochastic_depth": spec.stochastic_depth > 0,
        "upsampling": spec.upsampling != "transposed",
        "widths (one level)": len(spec.widths) < 2,
    }
    found = [name for name, is_wrong in wrong.items() if is_wrong]
    if found:
        raise UsageError(
            f"{spec.architecture} cannot be built with this {' and '.join(found)}",
            found=", ".join(f"{name}={getattr(spec, name.split()[0])!r}" for name in found),
            hint="Use architecture convnext_unet, or the settings of an nnU-Net plan",
        )
