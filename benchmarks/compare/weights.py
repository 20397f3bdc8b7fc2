"""Weights of the small network that predict several classes without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.data import ONE_MM, full_ct
from benchmarks.compare.plans import MEAN, PATCH, STD, THREADS, small_network

WEIGHTS = "weights.pt"
FOLDS = 2


def share_weights(folder: Path) -> None:
    """Write the weights of two folds: drawn, but for the last layer, which is fitted to classes drawn by density.

    The fit is by least squares on one patch of the scan: without it the largest of four random logits would be noise,
    and any two programs would disagree in many ties.
    """
    import torch

    from benchmarks.resample import draw_labels
    from siccs_net.preprocessing.resample import resample_image, resampled_shape
    from siccs_net.preprocessing.resample_labels import resample_labels

    torch.set_num_threads(THREADS)
    image, spacing = full_ct()
    shape = resampled_shape(image.shape, spacing, ONE_MM)
    patch = tuple(slice((size - edge) // 2, (size + edge) // 2) for size, edge in zip(shape, PATCH, strict=True))
    patch = (patch[0], patch[1], slice(60, 60 + PATCH[2]))  # one lung, its wall and the mediastinum
    shown = (resample_image(image, shape, order=3)[patch] - MEAN) / STD
    labels = resample_labels(draw_labels(image), shape)[patch]
    folds = []
    for seed in range(FOLDS):
        network = draw_network(seed)
        fit_head(network, torch.from_numpy(np.ascontiguousarray(shown, np.float32)), torch.from_numpy(labels))
        folds.append(network.state_dict())
    torch.save(folds, folder / WEIGHTS)


def draw_network(seed: int) -> Any:
    """Return the small network with random weights that do not lose the density on the way.

    The stem's convolution takes means of 3×3×3 voxels with a bias, without which its norm would keep no more than
    their sign; the last upsampling gives the same features to all voxels that it makes of one.
    """
    import torch

    from siccs_net.networks.build import build_network

    torch.manual_seed(seed)
    network: Any = build_network(small_network()).eval()
    with torch.no_grad():
        stem = network.stem[0]
        means = 2 * torch.randn(len(stem.bias), 1, 1, 1, 1) / 27
        stem.weight.zero_()
        stem.weight[..., 2:5, 2:5, 2:5] = means
        stem.bias.normal_()
        up = network.head.up.weight
        up.copy_(up[:, :, :1, :1, :1].expand_as(up))
    return network


def fit_head(network: Any, image: Any, labels: Any) -> None:
    """Set a network's last convolution so that its logits [classes, z, y, x] are near ±1 for these labels [z, y, x]."""
    import torch

    conv = network.head.conv
    seen: list[Any] = []
    hook = conv.register_forward_pre_hook(lambda module, given: seen.append(given[0][0]))
    with torch.inference_mode():
        network(image[None, None])
    hook.remove()
    width = conv.weight[0].numel() + 1
    gram = torch.zeros(width, width, dtype=torch.float64)
    moment = torch.zeros(width, conv.out_channels, dtype=torch.float64)
    for z in range(1, len(labels) - 1):  # plane by plane: a row a voxel has hundreds of numbers
        windows = seen[0][:, z - 1 : z + 2].unfold(2, 3, 1).unfold(3, 3, 1)  # [channel, z, y, x, 3, 3]
        rows = windows.permute(2, 3, 0, 1, 4, 5).flatten(0, 1).flatten(1).double()
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
        wanted = torch.nn.functional.one_hot(labels[z, 1:-1, 1:-1].flatten().long(), conv.out_channels)
        gram += rows.T @ rows
        moment += rows.T @ (2.0 * wanted.double() - 1)
    ridge = 1e-8 * torch.trace(gram) * torch.eye(width, dtype=torch.float64)
    solution = torch.linalg.solve(gram + ridge, moment).T
    with torch.no_grad():
        conv.weight.copy_(solution[:, :-1].reshape(conv.weight.shape))
        conv.bias.copy_(solution[:, -1])
