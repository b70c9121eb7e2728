"""Which weights of a sparse network carry anything: those on a path."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from ong_jax import flow, masks, program, selection
from ong_jax.checks import check_function
from ong_jax.types import Mask, Params, Predicate


def connected(
  outputs: Callable[[Params], Any],
  params: Params,
  prunable: Predicate = selection.is_kernel,
) -> Mask:
  """Finds the weights that lie on a path from the input to the output.

  A weight does if something reaches it from the input, and the output feels
  it: with ones for weights that are not 0 and for the input, both show in the
  gradient of what a network puts out. Paths are not counted, of which there
  are more than any float can hold: between any two operations there are only 0
  and 1, on the way forward and on the way back, so that no depth is too deep.

  Biases are no input here. So a unit that only its bias reaches puts out a
  constant, and is not connected.

  Args:
    outputs: `params -> array`, or a tree of them: what the network makes of an
      input of ones. It gets 1 for weights that are not 0, and all else as
      `synflow` gives it, in float32: 1 for `scale`, 0 for `bias`. As there,
      normalizations must be linear, and softmax and LayerNorm are replaced;
      maximum pooling, too, which lets but one of equals through. Nothing may
      be subtracted that depends on weights.
    params: of which some weights are 0; arrays or tracers.
    prunable: `(path, leaf) -> bool`.

  Returns:
    Tree of bool arrays shaped as the weights, `None` where not prunable.

  References:
    Vysogorets and Kempe, Connectivity matters: neural network pruning through
    the lens of effective sparsity, 2023, arXiv:2107.02306.

  Example:
    >>> params = {'a': {'kernel': jnp.array([[1.0, 2.0], [0.0, 3.0]])},
    ...           'b': {'kernel': jnp.array([[0.0], [-1.0]])}}
    >>> def outputs(params):
    ...   return jnp.ones(2) @ params['a']['kernel'] @ params['b']['kernel']
    >>> mask = connected(outputs, params)
    >>> [leaf.tolist() for leaf in jax.tree.leaves(mask)]
    [[[False, True], [False, True]], [[False], [True]]]
  """
  check_function('outputs', outputs, 'one of the params')
  rest, weights = flow.linear(params, prunable, jnp.float32)
  rest, weights = jax.tree.map(jnp.sign, (rest, weights))

  def run(weights):
    full = jax.tree.map(lambda p, w: p if w is None else w, rest, weights)
    return jax.tree.leaves(outputs(full))

  closed = jax.make_jaxpr(run)(weights)

  def felt(weights):
    leaves = jax.tree.leaves(weights)
    found, _ = _run(closed.jaxpr, closed.consts, leaves, [True] * len(leaves))
    return sum(jnp.sum(x) for x in found)

  grads = jax.grad(felt)(weights)
  return jax.tree.map(lambda w, g: (w != 0) & (g != 0), weights, grads)


def effective_sparsity(
  outputs: Callable[[Params], Any],
  params: Params,
  prunable: Predicate = selection.is_kernel,
) -> float:
  """Returns the sparsity if weights that lie on no path count as removed.

  Args:
    outputs, params, prunable: see `connected`.

  Returns:
    A float in [0, 1], at least the share of the weights that are 0.

  References:
    Vysogorets and Kempe, Connectivity matters: neural network pruning through
    the lens of effective sparsity, 2023, arXiv:2107.02306.

  Example:
    >>> params = {'a': {'kernel': jnp.array([[1.0, 2.0]])},
    ...           'b': {'kernel': jnp.array([[0.0], [3.0]])}}
    >>> def outputs(params):
    ...   return jnp.ones(1) @ params['a']['kernel'] @ params['b']['kernel']
    >>> effective_sparsity(outputs, params)
    0.5
  """
  return masks.sparsity(connected(outputs, params, prunable))


@jax.custom_vjp
def _mark(x: jax.Array) -> jax.Array:
  """Makes 1 of all that is positive, here and in gradients."""
  return jnp.sign(x)


def _mark_forward(x):
  y = jnp.sign(x)
  return y, y != 0


def _mark_backward(reached, g):
  return (jnp.where(reached, jnp.sign(g), jnp.zeros_like(g)),)


_mark.defvjp(_mark_forward, _mark_backward)


def _run(
  jaxpr: Any,
  consts: Sequence[Any],
  values: Sequence[Any],
  follows: Sequence[bool],
) -> tuple[list[Any], list[bool]]:
  """Evaluates a program, and marks all that follows from weights.

  Constants stay as they are: they may be compared with numbers.

  Args:
    jaxpr: the program.
    consts: its constants.
    values: its inputs.
    follows: which of these follow from weights.

  Returns:
    Its outputs, and which of them follow from weights.
  """
  env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values]))
  marked = {v for v, follow in zip(jaxpr.invars, follows) if follow}

  def value(v):
    return v.val if isinstance(v, jax.extend.core.Literal) else env[v]

  def follow(v):
    return not isinstance(v, jax.extend.core.Literal) and v in marked

  for eqn in jaxpr.eqns:
    args, ours = [value(v) for v in eqn.invars], [follow(v) for v in eqn.invars]
    inner = program.called(eqn)
    if any(ours) and inner is not None:
      results, out = _run(inner.jaxpr, inner.consts, args, ours)
    elif any(ours) and eqn.primitive.name == 'scan':
      results = _scan(eqn.params, args)
      out = [True] * len(results)
    else:
      bound = eqn.primitive.get_bind_params(eqn.params)
      results = eqn.primitive.bind(*args, **bound)
      if not eqn.primitive.multiple_results:
        results = [results]
      out = [any(ours)] * len(results)
      results = [_marked(x) if o else x for x, o in zip(results, out)]
    env.update(zip(eqn.outvars, results))
    marked.update(v for v, o in zip(eqn.outvars, out) if o)
  return [value(v) for v in jaxpr.outvars], [follow(v) for v in jaxpr.outvars]


def _marked(x: jax.Array) -> jax.Array:
  return _mark(x) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _scan(params: dict[str, Any], args: list[Any]) -> list[Any]:
  """Runs a loop over layers whose weights are stacked."""
  body, first = params['jaxpr'], params['num_consts']
  last = first + params['num_carry']

  def step(carry, xs):
    values = [*args[:first], *carry, *xs]
    out, _ = _run(body.jaxpr, body.consts, values, [True] * len(values))
    return out[: len(carry)], out[len(carry) :]

  carry, ys = jax.lax.scan(
    step,
    args[first:last],
    args[last:],
    length=params['length'],
    reverse=params['reverse'],
  )
  return [*carry, *ys]
