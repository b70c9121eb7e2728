"""The methods that the command line knows, as lists of segments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import ong_jax
from experiments.config import Config
from ong_jax import allocation, nmf, saliency, scores, selection


class Segment(NamedTuple):
  """A part of a run: so many epochs of one method.

  Each begins with the params that the one before finished with, a fresh
  optimizer and a learning rate that rises and decays within it.
  """

  epochs: int
  method: ong_jax.SparseMethod


class Entry(NamedTuple):
  """A line of METHODS."""

  summary: str  # One line, with its source.
  segments: Callable[[Config], list[Segment]]


# Says nothing of the training seed: the same weights give the same mask.
_NMF_KEY = 0


def _dense(config: Config) -> list[Segment]:
  everything = ong_jax.static(ong_jax.magnitude(sparsity=0))
  return [Segment(config.dense_epochs + config.epochs, everything)]


def _at_once(
  pruner: Callable[[Config], ong_jax.types.Pruner],
) -> Callable[[Config], list[Segment]]:
  """Dense epochs if there are any, then training under one mask."""

  def segments(config):
    everything = ong_jax.static(ong_jax.magnitude(sparsity=0))
    dense = Segment(config.dense_epochs, everything)
    sparse = Segment(config.epochs, ong_jax.static(pruner(config)))
    return [dense, sparse] if config.dense_epochs else [sparse]

  return segments


def _ong(**options: Any) -> Callable[[Config], list[Segment]]:
  def pruner(config):
    key = jax.random.key(_NMF_KEY)
    return ong_jax.ong(key, sparsity=config.sparsity, **options)

  return _at_once(pruner)


def _ong_normalized(config: Config) -> ong_jax.types.Pruner:
  score = scores.normalized(scores.ong(jax.random.key(_NMF_KEY)))
  return ong_jax.one_shot(score, config.sparsity, allocate=allocation.pooled)


def _reference_set(path: Any, leaf: Any) -> bool:
  """All kernels but the classifier and the projections of shortcuts."""
  left_out = ('linear', 'shortcut_conv')
  names = selection.name_of(path).split('/')
  return selection.is_kernel(path, leaf) and not set(left_out) & set(names)


METHODS: dict[str, Entry] = {
  'dense': Entry('No pruning: what the others are measured by.', _dense),
  'ong': Entry(
    'NMF residual, one ranking: ONG as reconstructed (arXiv:2508.12891).',
    _ong(),
  ),
  'ong-recon': Entry(
    'ONG, keeping where the factorization is large.',
    _ong(saliency=saliency.recon),
  ),
  'ong-recon-mag': Entry(
    'ONG, magnitude times the factorization; for trained weights.',
    _ong(saliency=saliency.recon_mag),
  ),
  'ong-signed': Entry(
    'ONG, keeping only what lies above the factorization.',
    _ong(saliency=saliency.signed_residual),
  ),
  'ong-relative': Entry(
    'ONG, the residual relative to the factorization.',
    _ong(saliency=saliency.rel_residual),
  ),
  'ong-component': Entry(
    'ONG, the largest contribution of one component.',
    _ong(saliency=saliency.component),
  ),
  'ong-rank1': Entry('ONG at rank 1, which no seed changes.', _ong(rank=1)),
  'ong-kl': Entry(
    'ONG with the Kullback-Leibler divergence.', _ong(solver=nmf.kl)
  ),
  'ong-layer': Entry(
    'ONG at one sparsity for all layers.', _ong(allocate=allocation.uniform)
  ),
  'ong-erk': Entry(
    'ONG with Erdos-Renyi-kernel densities.', _ong(allocate=allocation.erk)
  ),
  'ong-norm': Entry(
    'ONG with scores divided by their RMS in the layer.',
    _at_once(_ong_normalized),
  ),
  'ong-refset': Entry(
    'ONG with classifier and projections left dense.',
    _ong(prunable=_reference_set),
  ),
  'magnitude': Entry(
    'Largest weights, one ranking (Han et al., arXiv:1506.02626).',
    _at_once(lambda c: ong_jax.magnitude(sparsity=c.sparsity)),
  ),
  'random': Entry(
    'At random, with Erdos-Renyi-kernel densities (arXiv:1911.11134).',
    _at_once(
      lambda c: ong_jax.random(jax.random.key(c.seed), sparsity=c.sparsity)
    ),
  ),
}
