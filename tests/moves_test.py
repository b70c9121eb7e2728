import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ong_jax import allocation, patterns
from ong_jax.moves import grow_or_prune

_INF, _NAN = jnp.inf, jnp.nan


def _move(scores, kept, grows, sparsity=0.5, cuts=(0.0,)):
  move = grow_or_prune(patterns.unstructured(sparsity), grows, cuts)
  return move({'a': jnp.array(scores)}, {'a': jnp.array(kept, bool)})['a']


class MoveTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('prunes', [1.0, 9, 3, 4, 9, 9], [1, 0, 1, 1, 0, 0], False, [0, 0, 1, 1]),
    ('grows', [1.0, 2, 3, 9, 5, 8], [1, 0, 0, 0, 0, 1], True, [1, 0, 0, 1]),
    (
      'nan_goes',
      [_NAN, 9, 3, 4, 9, 9],
      [1, 0, 1, 1, 0, 0],
      False,
      [0, 0, 1, 1],
    ),
    ('nan_stays', [_NAN, _NAN, 3, 2, 1, 0], [1] + [0] * 5, True, [1, 0, 1, 1]),
    (
      'inf_stays',
      [_INF, 9, 3, 4, 9, 9],
      [1, 0, 1, 1, 0, 0],
      False,
      [1, 0, 0, 1],
    ),
    ('inf_comes', [0.0, _INF, 3, 2, 1, 0], [1] + [0] * 5, True, [1, 1, 1, 0]),
  )
  def test_only_what_competes_moves(self, scores, kept, grows, expected):
    cuts = (0.0,) if grows else (1 / 3,)
    found = _move(scores, kept, grows, cuts=cuts)
    np.testing.assert_array_equal(found[:4], expected)
    self.assertEqual(int(found.sum()), 3 if grows else 2)

  @parameterized.named_parameters(
    ('pruning_does_not_grow', [0, 0, 0, 0, 0, 1], False, [0, 0, 0, 0, 0, 1]),
    ('growing_does_not_prune', [0, 1, 1, 1, 1, 1], True, [0, 1, 1, 1, 1, 1]),
  )
  def test_where_the_budget_is_not_met(self, kept, grows, expected):
    np.testing.assert_array_equal(_move([1.0] * 6, kept, grows), expected)

  def test_refuses_scores_of_something_else(self):
    move = grow_or_prune(patterns.unstructured(0.5, allocation.pooled), True)
    with self.assertRaisesRegex(
      ValueError, r"it ranks \['a', 'b'\], the mask has \['a'\]"
    ):
      move({'a': jnp.ones(2), 'b': jnp.ones(2)}, {'a': jnp.ones(2, bool)})
    with self.assertRaisesRegex(TypeError, 'must return floats; got int32'):
      move({'a': jnp.ones(2, jnp.int32)}, {'a': jnp.ones(2, bool)})


if __name__ == '__main__':
  absltest.main()
