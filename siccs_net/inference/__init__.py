"""Prediction: tiles, folds and mirrors into logits, slab by slab."""
