"""Canvas on which a mask is painted: an image upscaled, pixel for pixel.

A model's images are small, and its masks have their size. So what is painted are the
model's own pixels. The value that passes between page and program is

    {"picture": PNG as data URL, "height": H, "width": W, "mask": "0110..."}

with one character for each pixel, row by row; 1 is to be filled.
"""

TEMPLATE = """
<div class="painter">
  <canvas tabindex="0" aria-label="mask: paint what is to be filled"></canvas>
  <div class="tools">
    <label>brush <input class="brush" type="range" min="1" max="9" value="2"></label>
    <label><input class="erase" type="checkbox"> erase</label>
    <button class="clear" type="button">clear</button>
    <span class="hint">Give a picture; then paint what is to be filled.</span>
  </div>
</div>
"""

CSS = """
.painter canvas {
  width: 100%; max-width: 260px; aspect-ratio: 1; border-radius: 8px;
  border: 1px solid var(--border-color-primary); touch-action: none;
  cursor: crosshair; image-rendering: pixelated;
  background: var(--block-background-fill);
}
.painter .tools {
  display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: center;
  margin-top: 6px; font-size: 14px;
}
.painter .tools label { display: flex; gap: 6px; align-items: center; }
.painter .brush { width: 90px; }
.painter .clear {
  padding: 2px 10px; border: 1px solid var(--border-color-primary);
  border-radius: 6px; cursor: pointer;
}
.painter .hint { flex-basis: 100%; color: var(--body-text-color-subdued); }
"""

# A stroke changes the mask at once and the value when it ends.
SCRIPT = """
const canvas = element.querySelector('canvas');
const find = name => element.querySelector('.' + name);
const cell = () => Math.max(1, Math.floor(512 / Math.max(height, width)));
let picture = null, height = 1, width = 1, mask = [], painting = false;

function redraw() {
  if (!picture) return;
  const size = cell(), pen = canvas.getContext('2d');
  canvas.width = width * size;
  canvas.height = height * size;
  canvas.style.aspectRatio = width + ' / ' + height;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  pen.fillStyle = 'rgba(255, 122, 0, 0.75)';
  mask.forEach((on, i) => {
    const x = i % width, y = Math.floor(i / width);
    if (on) pen.fillRect(x * size, y * size, size, size);
  });
}

function paint(event) {
  const box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width * width - 0.5;
  const y = (event.clientY - box.top) / box.height * height - 0.5;
  const reach = find('brush').value / 2;
  const on = !find('erase').checked;
  for (let i = 0; i < mask.length; i++) {
    const dx = i % width - x, dy = Math.floor(i / width) - y;
    if (Math.max(Math.abs(dx), Math.abs(dy)) <= reach) mask[i] = on;
  }
  redraw();
}

function tell() {
  const text = mask.map(on => on ? '1' : '0').join('');
  props.value = {...props.value, mask: text};
}

function read() {
  const value = props.value;
  if (!value || !value.picture) return;
  height = value.height;
  width = value.width;
  mask = Array.from(value.mask || '0'.repeat(height * width), c => c === '1');
  const image = new Image();
  image.onload = () => { picture = image; redraw(); };
  image.src = value.picture;
  find('hint').textContent = 'Paint what is to be filled; the rest is kept.';
}

canvas.addEventListener('pointerdown', event => {
  if (!picture) return;
  painting = true;
  canvas.setPointerCapture(event.pointerId);
  paint(event);
});
canvas.addEventListener('pointermove', event => { if (painting) paint(event); });
for (const end of ['pointerup', 'pointercancel']) {
  canvas.addEventListener(end, () => { if (painting) { painting = false; tell(); } });
}
find('clear').addEventListener('click', () => { mask.fill(false); redraw(); tell(); });
watch('value', read);
read();
"""
