import json

from absl.testing import absltest, parameterized

from ong_jax.export import structure


class StructureTest(parameterized.TestCase):
  def test_comes_back_from_json(self):
    leaf, masked = structure.Leaf('int8', None), structure.Leaf('bool', (2, 3))
    tree = {'b': [leaf, (None, masked)], 1: {}, 'a': ([], ())}
    found = structure.decode(json.loads(json.dumps(structure.encode(tree))))
    self.assertEqual(list(found), ['b', 1, 'a'])
    self.assertEqual(found[1], {})
    self.assertEqual(found['a'], ([], ()))
    first, (nothing, second) = found['b']
    self.assertEqual((first.dtype, first.shape), ('int8', None))
    self.assertIsNone(nothing)
    self.assertEqual((second.dtype, second.shape), ('bool', (2, 3)))

  @parameterized.named_parameters(
    ('node', {'a': [{1, 2}]}, "node 'a/0' is a set. Make it one"),
    ('key', {'a': {2.5: None}}, "node 'a' is a dict with keys .2.5."),
    ('number', {'a': 3}, "node 'a' is a int"),
  )
  def test_names_what_it_does_not_know(self, tree, message):
    with self.assertRaisesRegex(TypeError, message):
      structure.encode(tree)


if __name__ == '__main__':
  absltest.main()
