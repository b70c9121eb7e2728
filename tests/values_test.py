import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from ong_jax import values


class ValuesTest(parameterized.TestCase):
  @parameterized.parameters(jnp.nan, jnp.inf, -jnp.inf)
  def test_names_the_leaf_that_is_not_finite(self, value):
    tree = {'a': jnp.ones(2), 'b': {'kernel': jnp.array([1.0, value])}}
    for check in values.check_finite, values.check_measured:
      check({'a': jnp.ones(2)})
      with self.assertRaisesRegex(ValueError, "'b/kernel'.* not finite"):
        check(tree)

  def test_scores_may_be_infinite_up_to_what_is_kept(self):
    scores = {'a': jnp.array([jnp.inf, 1.0]), 'b': jnp.array([jnp.inf, -1.0])}
    for counts in {'a': 1, 'b': 1}, 2, None:
      values.check_scores(scores, counts)
    with self.assertRaisesRegex(ValueError, "1 weights of 'b', but only 0 are"):
      values.check_scores(scores, {'a': 1, 'b': 0})
    with self.assertRaisesRegex(ValueError, "2 weights of 'all leaves', but"):
      values.check_scores(scores, 1)
    with self.assertRaisesRegex(ValueError, "Leaf 'a' has 1 NaN scores"):
      values.check_scores({'a': jnp.array([jnp.nan])}, None)

  def test_shapes_have_no_values(self):
    with self.assertRaisesRegex(TypeError, "'a' has a shape but no values"):
      values.check_finite({'a': jax.ShapeDtypeStruct((2,), jnp.float32)})

  def test_under_jit_nothing_is_seen(self):
    jax.jit(values.check_finite)({'a': jnp.array([jnp.nan])})


if __name__ == '__main__':
  absltest.main()
