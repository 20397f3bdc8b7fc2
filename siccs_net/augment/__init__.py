"""Augmentation: parameters are drawn apart from applying them."""
