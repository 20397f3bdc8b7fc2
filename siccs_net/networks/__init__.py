"""The networks: one file an architecture, built from a plan's description of them."""
