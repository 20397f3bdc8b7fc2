"""Synthetic patients with known truth, and the contract that a plug-in must meet."""
