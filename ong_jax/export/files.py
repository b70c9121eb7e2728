"""Files that are there whole, or as they were."""

import os


def replace(path: str | os.PathLike, content: bytes) -> None:
  """Writes a file at once, over what may be there.

  Args:
    path: of the file.
    content: all of it.

  Raises:
    OSError: that was not possible.

  Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   replace(f'{folder}/file', b'content')
    ...   pathlib.Path(folder, 'file').read_bytes()
    b'content'
  """
  new = f'{os.fspath(path)}.new'
  try:
    with open(new, 'wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(new, path)
  except OSError as error:
    if os.path.isfile(new):
      os.remove(new)
    raise type(error)(
      f"'{os.fspath(path)}' cannot be written ({error.strerror})."
    ) from error
