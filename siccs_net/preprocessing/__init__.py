"""From a scan to what a network reads, and back: crop, resample, statistics and normalisation, export of logits."""
