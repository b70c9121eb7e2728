"""Named arrays in a file, .npz or .safetensors, with a note beside them."""

import io
import os
import zipfile

import numpy as np

from ong_jax import optional
from ong_jax.export import files

SUFFIXES = ('.npz', '.safetensors')
_NOTE = 'note'  # In the metadata of safetensors.

Path = str | os.PathLike


def check_suffix(path: Path) -> None:
  """Raises a `ValueError` unless a path ends as one of these files.

  Example:
    >>> check_suffix('net.npz')
  """
  if not str(path).endswith(SUFFIXES):
    raise ValueError(
      f'`path` must end in one of {", ".join(SUFFIXES)}, got {str(path)!r}.'
    )


def write(path: Path, arrays: dict[str, np.ndarray], note: str = '') -> None:
  """Writes a file at once, or not at all.

  The note is no array: whoever reads all arrays does not meet it. In an .npz it
  is the comment of the zip file.

  Args:
    path: ends in one of `SUFFIXES`.
    arrays: by name.
    note: any text.

  Raises:
    OSError: it cannot be written.
    ImportError: safetensors is not installed, and the file is to be one.

  Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   write(f'{folder}/x.npz', {'a': np.ones(2)}, 'of ones')
    ...   read(f'{folder}/x.npz'), read_note(f'{folder}/x.npz')
    ({'a': array([1., 1.])}, 'of ones')
  """
  if str(path).endswith('.npz'):
    content = io.BytesIO()
    np.savez(content, **arrays)
    with zipfile.ZipFile(content, 'a') as file:
      file.comment = note.encode()
    files.replace(path, content.getvalue())
  else:
    safetensors = optional.load('safetensors.numpy', 'export')
    metadata = {'format': 'pt'} | ({_NOTE: note} if note else {})
    files.replace(path, safetensors.save(arrays, metadata))


def read(path: Path) -> dict[str, np.ndarray]:
  """Reads all arrays; nothing that is in the file is run.

  Raises:
    Exception: of many types, for a file that is damaged.
  """
  if str(path).endswith('.safetensors'):
    return optional.load('safetensors.numpy', 'export').load_file(path)
  # Not `np.load`, which takes whatever is no zip file for a pickle.
  with open(path, 'rb') as file, np.lib.npyio.NpzFile(file) as members:
    # Bytes in another kind of zip file.
    return {name: np.asarray(members[name]) for name in members}


def read_note(path: Path) -> str:
  """Returns the note, '' if there is none."""
  if str(path).endswith('.safetensors'):
    safetensors = optional.load('safetensors', 'export')
    with safetensors.safe_open(path, 'numpy') as file:
      return (file.metadata() or {}).get(_NOTE, '')
  with zipfile.ZipFile(path) as file:
    return file.comment.decode(errors='replace')
