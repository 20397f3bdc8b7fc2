"""Bytes in and out, checked: images, datasets, prepared arrays, checkpoints, records."""
