"""Which weights are kept together, and how many of them.

Single weights, N:M groups, blocks and whole channels differ in how scores
compete. A pattern says that once, for pruning at the outset and for methods
that move their mask as they train.
"""

from ong_jax.patterns.channels import per_channel as per_channel
from ong_jax.patterns.channels import whole_channels as whole_channels
from ong_jax.patterns.groups import n_of_m as n_of_m
from ong_jax.patterns.mixed import Block as Block
from ong_jax.patterns.mixed import NofM as NofM
from ong_jax.patterns.mixed import blocks as blocks
from ong_jax.patterns.mixed import mixed as mixed
from ong_jax.patterns.pattern import Pattern as Pattern
from ong_jax.patterns.weights import per_output as per_output
from ong_jax.patterns.weights import unstructured as unstructured
