"""SVG drawings: text stays text, colours follow the page's CSS variables."""

import contextlib
import io
import re
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Written as these values; the page's variables override them (light and dark).
INK, MUTED, LINE = '#1b1f2a', '#667086', '#dfe3ea'
DOT, FRONT, ACCENT = '#8ba6c9', '#2f5d9b', '#b3431d'
CARD = '#fefefe'
_VARIABLES = {
  INK: '--ink',
  MUTED: '--muted',
  LINE: '--line',
  DOT: '--dot',
  FRONT: '--front',
  ACCENT: '--accent',
  CARD: '--card',
}
_STYLE = {
  'svg.fonttype': 'none',
  'svg.hashsalt': 'automerge_jax',
  'text.parse_math': False,
  'font.size': 11,
  'axes.edgecolor': LINE,
  'axes.labelcolor': MUTED,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'xtick.color': MUTED,
  'ytick.color': MUTED,
  'xtick.labelsize': 10,
  'ytick.labelsize': 10,
  'xtick.major.size': 0,
  'ytick.major.size': 0,
  'grid.color': LINE,
  'grid.linewidth': 0.8,
  'text.color': INK,
}
MANY = 1500  # dots beyond this become one image, to keep the page small


class Panel(NamedTuple):
  """One plot: its title, a sentence for those who cannot see it, its SVG."""

  title: str
  description: str
  svg: str


def style() -> contextlib.AbstractContextManager[None]:
  """The settings that drawings are made in; others are left alone."""
  return matplotlib.rc_context(_STYLE)


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
  """A transparent figure of this size in pixels, and its axes."""
  figure = Figure(
    figsize=(width / 72, height / 72), dpi=72, layout='constrained'
  )
  figure.patch.set_alpha(0)
  axes = figure.add_subplot()
  axes.patch.set_alpha(0)
  return figure, axes


def svg(figure: Figure, name: str) -> str:
  """The figure as one compact <svg> element with ids that no other has."""
  file = io.StringIO()
  figure.savefig(file, format='svg', metadata={'Date': None})
  text = file.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.S)
  text = re.sub(r' width="[\d.]+pt"| height="[\d.]+pt"', '', text, count=2)
  text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', '')
  text = text.replace('xlink:href', 'href')
  # Its style would hold for the whole page.
  text = re.sub(r'<defs>\s*<style.*?</style>\s*</defs>', '', text, flags=re.S)
  text = text.replace('<svg', '<svg stroke-linejoin="round"', 1)
  inside = '(?=[^<>]*>)'  # of a tag, never of a name that is shown
  text = re.sub(rf'(?<=\s)id="{inside}', f'id="{name}-', text)
  text = re.sub(rf'(url\(#|\bhref="#){inside}', rf'\g<1>{name}-', text)
  text = re.sub(rf"'DejaVu Sans'[^;\"]*sans-serif{inside}", 'sans-serif', text)
  text = re.sub(rf'(\d\.\d\d)\d+{inside}', r'\1', text)
  for color, variable in _VARIABLES.items():
    text = text.replace(f': {color}', f': var({variable}, {color})')
  return re.sub(r'>\s+<', '><', text).strip()
