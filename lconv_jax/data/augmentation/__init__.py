"""Augmentation of images: policies of operations, then shifts, flips and cutout.

`policies` applies a named policy by the compiled `operations`; `shifts` does the rest. The order in
a run is `training.inputs.make_augment`'s.
"""
