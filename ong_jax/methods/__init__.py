"""Methods whose mask changes in training, a file each."""

from ong_jax.methods.ac_dc import ac_dc as ac_dc
from ong_jax.methods.cs import cs as cs
from ong_jax.methods.decay import mask_decay as mask_decay
from ong_jax.methods.decay import structure_decay as structure_decay
from ong_jax.methods.dpf import dpf as dpf
from ong_jax.methods.dst import dst as dst
from ong_jax.methods.gmp import gmp as gmp
from ong_jax.methods.gsm import gsm as gsm
from ong_jax.methods.iee import iee as iee
from ong_jax.methods.iss_p import iss_p as iss_p
from ong_jax.methods.lc import lc as lc
from ong_jax.methods.optg import optg as optg
from ong_jax.methods.probmask import probmask as probmask
from ong_jax.methods.rigl import rigl as rigl
from ong_jax.methods.set_ import set_ as set_
from ong_jax.methods.ste import dnw as dnw
from ong_jax.methods.ste import ste as ste
from ong_jax.methods.str_ import str_ as str_
from ong_jax.methods.top_kast import top_kast as top_kast
