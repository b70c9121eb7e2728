"""The kinds of function that everything is made of, and their values.

All trees have the structure of the params. Leaves that are not prunable are
`None` in weights, scores, counts and masks; `jax.tree.map` skips them.
"""

from collections.abc import Callable
from typing import Any

import jax

Params = Any  # The whole tree of parameters: linen dict, NNX state, any pytree.
Weights = Any  # Its prunable leaves, `None` elsewhere.
Scores = Any  # Arrays shaped as their weights; higher is kept longer.
Counts = Any  # Weights kept: an int per leaf, or one int for the whole tree.
Mask = Any  # bool arrays shaped as their weights; True = kept.

Predicate = Callable[[jax.tree_util.KeyPath, jax.Array], bool]
InputAxes = Callable[[jax.tree_util.KeyPath, jax.Array], int]
Score = Callable[[Weights], Scores]
Measure = Callable[[Params], Weights]  # What is scored in place of the weights.
Allocation = Callable[[Scores, float], Counts]
Pruner = Callable[[Params], Mask]
