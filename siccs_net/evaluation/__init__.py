"""Masks in, numbers out: overlap, surface distances, volumes, their summary, and pictures. No torch."""
