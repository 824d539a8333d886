"""Augmentation: shifts, flips and cutout, and policies of operations on images."""
