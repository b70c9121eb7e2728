"""Masks in a notebook: the tree, with a picture in place of each bool leaf.

It needs treescope (extra `show`), which Flax installs, too. `show(mask)` shows
one; after `setup()`, a cell that ends in a mask does.
"""

from typing import Any

import jax
import numpy as np

from ong_jax import optional

_COLORS = [(232, 232, 232), (0, 72, 120)]  # Of what is pruned, and kept.
_MOST_WEIGHTS = 40_000  # Of one leaf. Beyond that its middle is left out.
_WIDTH = 600  # Pixels, of a leaf, about.


def show(tree: Any) -> None:
  """Shows a tree in a notebook, with a picture of every mask in it.

  Args:
    tree: a mask, or anything that has bool arrays; all else is text.

  Raises:
    ImportError: treescope or IPython is not there.

  Example:
    In a cell:

        from ong_jax import showing
        showing.show(mask)
  """
  display = optional.load('IPython.display', 'show')
  display.display(display.HTML(html(tree)))


def html(tree: Any, *, compressed: bool = True) -> str:
  """Returns what `show` shows: a page that needs nothing from elsewhere.

  Args:
    tree: as `show` takes it.
    compressed: whether the page is packed, and unpacks itself in a browser.

  Raises:
    ImportError: treescope is not there.

  Example:
    >>> mask = {'kernel': jnp.eye(3, dtype=bool)}
    >>> 'kernel' in html(mask, compressed=False)
    True
  """
  treescope = optional.load('treescope', 'show')
  with (
    treescope.active_autovisualizer.set_scoped(picture),
    treescope.using_expansion_strategy(max_height=None),
  ):
    return treescope.render_to_html(tree, compressed=compressed)


def setup() -> None:
  """Lets every cell of this notebook that ends in a mask show pictures.

  Other arrays and trees look as treescope has them.

  Raises:
    ImportError: treescope is not there.
    RuntimeError: this is no notebook.
  """
  treescope = optional.load('treescope', 'show')
  treescope.register_as_default(streaming=False)
  treescope.active_autovisualizer.set_globally(picture)


def picture(value: Any, path: str | None = None) -> Any:
  """Draws a bool array for treescope: an autovisualizer, as it calls them.

  Rows are filters, columns inputs; what a convolution has for the two is a cell
  of its height x width.

  Args:
    value: a node of a tree. None is drawn but bool arrays [..., inputs,
      filters] of two axes or more.
    path: of the node; not read.

  Returns:
    A picture, or None: treescope writes the node as it writes all others.

  Example:
    >>> picture(jnp.ones((2, 2))) is None
    True
  """
  del path
  if (
    not isinstance(value, np.ndarray | jax.Array)
    or isinstance(value, jax.core.Tracer)
    or value.dtype != bool
    or value.ndim < 2
    or not value.size
  ):
    return None
  treescope = optional.load('treescope', 'show')
  *spatial, inputs, filters = range(value.ndim)
  names = {inputs: 'input', filters: 'filter'}
  if len(spatial) == 2:
    names |= {spatial[0]: 'height', spatial[1]: 'width'}
  rows, columns = [*spatial[:-1][::-1], filters], [*spatial[-1:], inputs]
  large = value.size > _MOST_WEIGHTS
  widest = max(
    np.prod([value.shape[axis] for axis in axes]) for axes in (rows, columns)
  )
  return treescope.IPythonVisualization(
    treescope.render_array(
      np.asarray(value),
      rows=rows,
      columns=columns,
      axis_labels={
        axis: f'{name}: {value.shape[axis]}' for axis, name in names.items()
      },
      colormap=_COLORS,
      continuous=False,
      value_item_labels={0: 'pruned', 1: 'kept'},
      truncate=large,
      maximum_size=_MOST_WEIGHTS,
      pixels_per_cell=3 if large else int(np.clip(_WIDTH // widest, 2, 7)),
    )
  )
