"""Sparse training in JAX: pruners, masks, and optax transformations."""

from ong_jax import allocation as allocation
from ong_jax import nmf as nmf
from ong_jax import saliency as saliency
from ong_jax import scores as scores
from ong_jax import selection as selection
from ong_jax import starts as starts
from ong_jax.masks import apply_mask as apply_mask
from ong_jax.masks import pack as pack
from ong_jax.masks import sparsity as sparsity
from ong_jax.masks import unpack as unpack
from ong_jax.pruners import magnitude as magnitude
from ong_jax.pruners import one_shot as one_shot
from ong_jax.pruners import ong as ong
from ong_jax.pruners import random as random
from ong_jax.ranking import top_k as top_k
from ong_jax.summary import summarize as summarize
from ong_jax.transforms import SparseMethod as SparseMethod
from ong_jax.transforms import mask_of as mask_of
from ong_jax.transforms import masked_transform as masked_transform
from ong_jax.transforms import static as static
