"""Canvas on which a set of points is drawn, in the square from -1 to 1.

A stroke sprays points around the pointer, normal in both directions. The value that
passes between page and program is

    {"points": [[x, y], ...]}

with y upwards. A preset of the page is set from the program in the same form.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.errors import UserError

MOST = 4096
"""Points that a canvas holds."""
FEWEST = 20

TEMPLATE = """
<div class="canvas">
  <canvas tabindex="0" width="520" height="520"
    aria-label="points: draw a set with the pointer"></canvas>
  <div class="tools">
    <label>spread <input class="spread" type="range" min="1" max="20" value="4"></label>
    <label><input class="erase" type="checkbox"> erase</label>
    <button class="clear" type="button">clear</button>
    <span class="hint">Press and draw: a stroke sprays points.</span>
  </div>
</div>
"""

CSS = """
.canvas canvas {
  width: 100%; max-width: 420px; aspect-ratio: 1; border-radius: 8px;
  border: 1px solid var(--border-color-primary); touch-action: none;
  cursor: crosshair; background: white;
}
.canvas .tools {
  display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center;
  margin-top: 6px; font-size: 14px;
}
.canvas .tools label { display: flex; gap: 6px; align-items: center; }
.canvas .spread { width: 90px; }
.canvas .clear {
  padding: 2px 10px; border: 1px solid var(--border-color-primary);
  border-radius: 6px; cursor: pointer;
}
.canvas .hint { flex-basis: 100%; color: var(--body-text-color-subdued); }
"""

# A stroke shows at once, and changes the value when it ends. It sprays evenly along its
# way, however fast the pointer moves, and while it rests.
SCRIPT = (
    """
const MOST = """
    + str(MOST)
    + """;
const canvas = element.querySelector('canvas');
const find = name => element.querySelector('.' + name);
let points = [], drawing = false, last = null, timer = null;

function redraw() {
  const pen = canvas.getContext('2d'), size = canvas.width;
  pen.clearRect(0, 0, size, size);
  pen.fillStyle = '#1f5fa8';
  for (const [x, y] of points) {
    pen.fillRect((x + 1) / 2 * size - 1.5, (1 - y) / 2 * size - 1.5, 3, 3);
  }
  find('hint').textContent = points.length
    ? points.length + (points.length < MOST ? ' points.' : ' points, no more.')
    : 'Press and draw: a stroke sprays points.';
}

const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random()))
  * Math.cos(2 * Math.PI * Math.random());

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * 2 - 1,
          1 - (event.clientY - box.top) / box.height * 2];
}

function touch([x, y]) {
  const spread = find('spread').value / 100;
  if (find('erase').checked) {
    const reach = Math.max(0.04, 2 * spread);
    points = points.filter(p => Math.hypot(p[0] - x, p[1] - y) > reach);
  } else {
    for (let i = 0; i < 4 && points.length < MOST; i++) {
      const made = [x + spread * normal(), y + spread * normal()];
      if (made.every(c => Math.abs(c) <= 1)) {
        points.push(made.map(c => Math.round(c * 1e4) / 1e4));
      }
    }
  }
}

function stroke(event) {
  const next = place(event);
  const steps = Math.ceil(Math.hypot(next[0] - last[0], next[1] - last[1]) / 0.02);
  for (let i = 1; i <= steps; i++) {
    touch(last.map((c, j) => c + (next[j] - c) * i / steps));
  }
  last = next;
  redraw();
}

function tell() { props.value = {points}; }

function read() {
  if (drawing || !props.value || !props.value.points) return;
  points = props.value.points.map(p => [...p]);
  redraw();
}

canvas.addEventListener('pointerdown', event => {
  drawing = true;
  canvas.setPointerCapture(event.pointerId);
  last = place(event);
  const rest = () => { touch(last); redraw(); };
  rest();
  timer = setInterval(rest, 50);
});
canvas.addEventListener('pointermove', event => { if (drawing) stroke(event); });
for (const end of ['pointerup', 'pointercancel']) {
  canvas.addEventListener(end, () => {
    if (!drawing) return;
    drawing = false;
    clearInterval(timer);
    tell();
  });
}
find('clear').addEventListener('click', () => { points = []; redraw(); tell(); });
watch('value', read);
read();
redraw();
"""
)


def points_of(value: Any) -> np.ndarray:
    """Read the points of a canvas.

    Args:
        value: of the canvas, from a request.

    Returns:
        float32 [N, 2], in [-1, 1].

    Raises:
        UserError: there are too few or too many, or they are no points.
    """
    listed = value.get("points") if isinstance(value, Mapping) else None
    listed = [] if listed is None else listed
    if not isinstance(listed, list) or not all(map(_is_point, listed)):
        raise UserError(
            "the drawing is no list of points [x, y] between -1 and 1; clear the "
            "canvas and draw again."
        )
    if not FEWEST <= len(listed) <= MOST:
        raise UserError(
            f"{len(listed)} points are drawn; draw {FEWEST} to {MOST:,} on the canvas, "
            "or take one of the sets below it."
        )
    return np.asarray(listed, np.float32)


def _is_point(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(c) in (int, float) and -1 <= c <= 1 for c in value)
    )
