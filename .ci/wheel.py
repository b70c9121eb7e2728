"""Looks into a wheel, and runs README's first example on what it installed."""

import pathlib
import re
import sys
import zipfile


def check(wheel: str, readme: str) -> None:
  """Fails if a file of the library is missing, or another one is there."""
  library = pathlib.Path(readme).parent / 'ong_jax'
  wanted = {
    str(file.relative_to(library.parent))
    for file in [*library.rglob('*.py'), library / 'py.typed']
  }
  names = zipfile.ZipFile(wheel).namelist()
  found = {name for name in names if '.dist-info/' not in name}
  assert found == wanted, f'not in both: {sorted(found ^ wanted)}'
  example = re.search(
    r'```python\n(.*?)```', pathlib.Path(readme).read_text(), re.DOTALL
  )
  exec(example[1], {})
  import ong_jax

  assert 'site-packages' in ong_jax.__file__, ong_jax.__file__
  print(f"{len(found)} files, and README's first example runs.")


if __name__ == '__main__':
  check(*sys.argv[1:])
