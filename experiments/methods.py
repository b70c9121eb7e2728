"""The methods that the command line knows."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from experiments.plan import Segment
from experiments.recipes import (
  afterwards,
  calibrated,
  cycles,
  exploring,
  moving,
  once,
  throughout,
)


class Entry(NamedTuple):
  """A line of METHODS."""

  summary: str  # One line.
  source: str
  recipe: Callable[..., list[Segment]]  # (run, *, options) -> segments.


_IEE = 'Sun et al., arXiv:2502.03658'


def _reconstructed(what: str, **options: str | int | bool) -> Entry:
  return Entry(
    f'ONG as reconstructed, {what}.',
    'reconstructed from Behera and Prasad, arXiv:2508.12891',
    functools.partial(
      once.ong, **{'saliency': 'residual', 'rank': 7} | options
    ),
  )


METHODS: dict[str, Entry] = {
  'dense': Entry(
    'No pruning: what the others are measured by.', '-', once.dense
  ),
  'ong': Entry(
    'Once, by magnitude that an NMF of rank 1 tempers; one ranking.',
    'after Behera and Prasad, arXiv:2508.12891',
    once.ong,
  ),
  'ong-reconstructed': _reconstructed('by the residual of an NMF of rank 7'),
  'ong-recon': _reconstructed('where the NMF is large', saliency='recon'),
  'ong-recon-mag': _reconstructed(
    'by magnitude times the NMF', saliency='recon_mag'
  ),
  'ong-signed': _reconstructed(
    'by what lies above the NMF', saliency='signed_residual'
  ),
  'ong-relative': _reconstructed(
    'by the residual relative to the NMF', saliency='rel_residual'
  ),
  'ong-component': _reconstructed(
    'by the largest of the components', saliency='component'
  ),
  'ong-rank1': _reconstructed('at rank 1', rank=1),
  'ong-kl': _reconstructed('by Kullback-Leibler divergence', solver='kl'),
  'ong-layer': _reconstructed('layers alike', allocate='uniform'),
  'ong-erk': _reconstructed('Erdos-Renyi-kernel densities', allocate='erk'),
  'ong-norm': _reconstructed('scores by their RMS', normalize=True),
  'ong-refset': _reconstructed(
    'classifier and projections dense', all_kernels=False
  ),
  'magnitude': Entry(
    'Once, the largest weights; one ranking.',
    'Han et al., arXiv:1506.02626',
    once.magnitude,
  ),
  'lamp': Entry(
    'Once, by magnitude among those not below it in the layer.',
    'Lee et al., arXiv:2010.07611',
    once.lamp,
  ),
  'magnitude-nm': Entry(
    'Once, the largest N of every M weights.',
    'Mishra et al., arXiv:2104.08378',
    once.magnitude_nm,
  ),
  'magnitude-blocks': Entry(
    'Once, whole blocks of the largest mean.',
    'Narang et al., arXiv:1711.02782',
    once.magnitude_blocks,
  ),
  'snip': Entry(
    'Once, by what the loss would change without a weight.',
    'Lee et al., arXiv:1810.02340',
    calibrated.snip,
  ),
  'grasp': Entry(
    'Once, by what the gradient would lose without a weight.',
    'Wang et al., arXiv:2002.07376',
    calibrated.grasp,
  ),
  'synflow': Entry(
    'Once, in rounds, by what weights carry without any data.',
    'Tanaka et al., arXiv:2006.05467',
    calibrated.synflow,
  ),
  'wanda': Entry(
    'Once, by weights times activations; for trained weights.',
    'Sun et al., arXiv:2306.11695',
    calibrated.wanda,
  ),
  'sparsegpt': Entry(
    'Once, and updates what it keeps; for trained weights.',
    'Frantar and Alistarh, arXiv:2301.00774',
    calibrated.sparsegpt,
  ),
  'random': Entry(
    'Once, at random, with Erdos-Renyi-kernel densities.',
    'Evci et al., arXiv:1911.11134',
    once.random,
  ),
  'gmp': Entry(
    'Step by step, the largest weights stay.',
    'Zhu and Gupta, arXiv:1710.01878',
    throughout.gmp,
  ),
  'dpf': Entry(
    'Dense weights, trained by the gradients at the pruned ones.',
    'Lin et al., arXiv:2006.07253',
    throughout.dpf,
  ),
  'dnw': Entry(
    'As DPF, at full sparsity and with a new mask at every step.',
    'Wortsman et al., arXiv:1906.00586',
    throughout.dnw,
  ),
  'ste': Entry(
    'As DNW, with one sparsity for all layers.',
    'Bengio et al., arXiv:1308.3432',
    throughout.ste,
  ),
  'sr-ste': Entry(
    'As STE, of N of every M weights, and the others decay.',
    'Zhou et al., arXiv:2102.04010',
    throughout.sr_ste,
  ),
  'mask-decay': Entry(
    'From dense to N of every M weights: the others fade out.',
    'Kao et al., arXiv:2209.07617',
    throughout.mask_decay,
  ),
  'structure-decay': Entry(
    'From dense to N of every M weights: N falls.',
    'Kao et al., arXiv:2209.07617',
    throughout.structure_decay,
  ),
  'optg': Entry(
    'Learned scores: what pruning would cost, summed up in training.',
    'Zhang et al., arXiv:2201.12826',
    throughout.optg,
  ),
  'set': Entry(
    'Drops the smallest weights and grows others, usually at random.',
    'Mocanu et al., arXiv:1707.04780',
    moving.set_,
  ),
  'rigl': Entry(
    'As SET, but grows where the gradient is largest.',
    'Evci et al., arXiv:1911.11134',
    moving.rigl,
  ),
  'top-kast': Entry(
    'The largest weights run; they and the next largest train.',
    'Jayakumar et al., arXiv:2106.03517',
    moving.top_kast,
  ),
  'ac-dc': Entry(
    'Pruned by magnitude and restored, in turns.',
    'Peste et al., arXiv:2106.12379',
    moving.ac_dc,
  ),
  'iee': Entry(
    'Prunes and grows by one score, of weights that have explored.',
    _IEE,
    exploring.iee,
  ),
  'iee-nm': Entry(
    'IEE that keeps N of every M weights.', _IEE, exploring.iee_nm
  ),
  'iee-channels': Entry(
    'IEE of whole channels, by weights, operations or latency.',
    _IEE,
    exploring.iee_channels,
  ),
  'gsm': Entry(
    'Gradients only where they matter most; pruned in the end.',
    'Ding et al., arXiv:1909.12778',
    afterwards.gsm,
  ),
  'lc': Entry(
    'Weight decay only on the smallest; pruned in the end.',
    'Carreira-Perpinan and Idelbayev, CVPR 2018',
    afterwards.lc,
  ),
  'iss-p': Entry(
    'The smallest weights shrink at every step; pruned in the end.',
    'Wang et al., arXiv:2303.09650',
    afterwards.iss_p,
  ),
  'str': Entry(
    'Learned thresholds of kernels, by which weights shrink.',
    'Kusupati et al., arXiv:2002.03231',
    afterwards.str_,
  ),
  'dst': Entry(
    'Learned thresholds of units, below which weights are 0.',
    'Liu et al., arXiv:2005.06870',
    afterwards.dst,
  ),
  'cs': Entry(
    'Learned gates of weights, which harden.',
    'Savarese et al., arXiv:1912.04427',
    afterwards.cs,
  ),
  'probmask': Entry(
    'Learned probabilities of weights, under one budget.',
    'Zhou et al., arXiv:2105.01571',
    afterwards.probmask,
  ),
  'probmask-supermask': Entry(
    'ProbMask of weights that stay as they were drawn.',
    'Zhou et al., arXiv:2105.01571',
    functools.partial(afterwards.probmask, train_weights=False, retrain=0.0),
  ),
  'imp': Entry(
    'Trained, then pruned by magnitude and retrained, in phases.',
    'Han et al., arXiv:1506.02626; LLR: Zimmer et al., arXiv:2111.00843',
    cycles.imp,
  ),
  'bimp': Entry(
    'IMP with dense training in the budget, and adaptive rates.',
    'Zimmer et al., arXiv:2111.00843',
    cycles.bimp,
  ),
  'lth': Entry(
    'Lottery tickets: IMP that restarts from the first weights.',
    'Frankle and Carbin, arXiv:1803.03635',
    cycles.rewinding,
  ),
  'weight-rewinding': Entry(
    'IMP that restarts from early weights, and replays their rates.',
    'Renda et al., arXiv:2003.02389',
    functools.partial(cycles.rewinding, rewind=0.1),
  ),
}
