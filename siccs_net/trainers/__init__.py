"""Training: one base loop with small methods to override, and the trainers that come with it."""
