"""Writes a page for each method, from the docstrings that it has anyway.

    python -m docs.make

`tests/docs_test.py` fails where a page is not what this writes.
"""

import ast
import inspect
import pathlib
import re
from collections.abc import Callable

import ong_jax
from experiments import options
from experiments.methods import METHODS

HERE = pathlib.Path(__file__).parent
_SECTIONS = ('Args', 'Returns', 'Raises', 'Example', 'References')
_HEADINGS = {'Args': 'Arguments', 'Raises': 'Errors'}


def home(name: str) -> Callable:
  """Returns what the library has for a method of the command line.

  Where that is a plan of pruning and training again, it is the recipe.

  Example:
    >>> home('ong-kl').__name__, home('sr-ste').__name__, home('imp').__name__
    ('ong', 'ste', 'imp')
  """
  first, last = name.split('-')[0], name.split('-')[-1]
  for words in name.replace('-', '_'), first, last:
    for word in words, f'{words}_':
      found = getattr(ong_jax, word, None)
      if callable(found):
        return found
  recipe = METHODS[name].recipe
  return getattr(recipe, 'func', recipe)


def pages() -> dict[str, str]:
  """Returns the text of each page, by its path under `docs`."""
  homes: dict[Callable, list[str]] = {}
  for name in METHODS:
    homes.setdefault(home(name), []).append(name)
  titles = {maker: maker.__name__.rstrip('_') for maker in homes}
  found = {
    f'methods/{titles[maker]}.md': _page(titles[maker], maker, names)
    for maker, names in homes.items()
  }
  rows = [
    f'| [{titles[maker]}](methods/{titles[maker]}.md) | {_summary(maker)} | '
    f'{", ".join(f"`{name}`" for name in names)} |'
    for maker, names in homes.items()
  ]
  head = [
    '# Methods\n',
    'A page each, made by `python -m docs.make` from the docstrings. '
    '[The command line](command_line.md) has their options.\n',
    '| method | what | on the command line |',
    '| --- | --- | --- |',
  ]
  return found | {'README.md': '\n'.join([*head, *rows]) + '\n'}


def _summary(maker: Callable) -> str:
  return inspect.getdoc(maker).splitlines()[0].replace('|', r'\|')


def _page(title: str, maker: Callable, names: list[str]) -> str:
  sections = _split(inspect.getdoc(maker))
  parts = [f'# {title}', sections.pop('')]
  if maker.__module__.startswith('ong_jax'):
    parts.append(f'```python\n{_signature(maker)}\n```')
  for name, text in sections.items():
    parts += [f'## {_HEADINGS.get(name, name)}', _body(name, text)]
  parts.append('## On the command line')
  said: list[str] = []
  for name in names:
    entry = METHODS[name]
    source = '' if entry.source == '-' else f' ({entry.source})'
    found = options.describe(entry.recipe)
    new = [f'`{x}`' for x in found if x not in said]
    said += found
    parts += [
      f'`python -m experiments.cifar --method={name}`: {entry.summary}{source}',
      f'Options: {", ".join(new)}.' if new else '',
    ]
  parts.append('[All methods](../README.md)')
  return '\n\n'.join(part.rstrip() for part in parts if part) + '\n'


def _split(doc: str) -> dict[str, str]:
  """Splits a docstring at its headings; what stands before has none."""
  parts = re.split(rf'^({"|".join(_SECTIONS)}):\n', doc, flags=re.MULTILINE)
  bodies = map(inspect.cleandoc, parts[2::2])
  return {'': parts[0].strip()} | dict(zip(parts[1::2], bodies))


def _body(name: str, text: str) -> str:
  if name == 'Example':
    return f'```pycon\n{text}\n```'
  if name not in ('Args', 'Raises'):
    return text
  items = re.split(r'^(?=[\w*]+:)', text, flags=re.MULTILINE)
  return '\n'.join(
    '- ' + re.sub(r'^(\S+):', r'`\1`:', ' '.join(item.split()))
    for item in items
    if item.strip()
  )


def _signature(maker: Callable) -> str:
  """As it is written in the source: a line for each argument."""
  (tree,) = ast.parse(inspect.getsource(maker)).body
  given = tree.args
  lines = _arguments(given.posonlyargs + given.args, given.defaults)
  lines += ['*'] if given.kwonlyargs else []
  lines += _arguments(given.kwonlyargs, given.kw_defaults)
  lines += [f'**{ast.unparse(given.kwarg)}'] if given.kwarg else []
  body = ''.join(f'  {line},\n' for line in lines)
  return f'ong_jax.{tree.name}(\n{body}) -> {ast.unparse(tree.returns)}'


def _arguments(
  given: list[ast.arg], defaults: list[ast.expr | None]
) -> list[str]:
  defaults = [None] * (len(given) - len(defaults)) + defaults
  return [
    ast.unparse(x) + (f' = {ast.unparse(default)}' if default else '')
    for x, default in zip(given, defaults)
  ]


def main() -> None:
  """Writes all pages, and removes those of methods that are gone."""
  found = pages()
  (HERE / 'methods').mkdir(exist_ok=True)
  for file in (HERE / 'methods').glob('*.md'):
    if f'methods/{file.name}' not in found:
      file.unlink()
  for path, text in found.items():
    (HERE / path).write_text(text)


if __name__ == '__main__':
  main()
