"""How methods become segments: a file for each time at which they prune.

The keywords of a recipe are its method's options; `experiments.methods` has the
names. All segments of sparse training together have the `epochs` of the config,
so that methods compare at equal budget; `dense_epochs` come before.
"""
