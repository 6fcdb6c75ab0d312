"""Take the pictures of docs/playground.md: `python tests/playground/screenshots.py`.

They show the model in runs/digits, which `make demo` trains. The environment is that of
`make test-playground`, which also takes the pictures, of a tiny model, so that they can
be taken at any time.
"""

import argparse
import base64
import io
import math
import tempfile
import time
from pathlib import Path

import chrome
import served
from chrome import click, fill, find, paint, run, take_example
from PIL import Image

WIDTH = 1200


def draw(page):
    fill(page, "#sample-images", 50)
    run(page, "sample")
    click(page, "#sample-same button")
    find(page, "#sample-command .cm-content")


def inpaint(page):
    click(page, "#tab-inpaint-button")
    take_example(page, "inpaint", "picture", 7)
    for row in (5, 7):
        paint(page, row, range(1, 8))
    fill(page, "#inpaint-images", 9)
    run(page, "inpaint")


def interpolate(page):
    click(page, "#tab-interpolate-button")
    take_example(page, "interpolate", "picture", 3)
    take_example(page, "interpolate", "other", 8)
    fill(page, "#interpolate-points", 8)
    run(page, "interpolate")


def points(page):
    """Draw a smile, and train on it."""
    click(page, "#tab-points-button")
    canvas = "#points-canvas canvas"
    chrome.stroke(page, canvas, arc(0.75, 0, 2 * math.pi))
    chrome.stroke(page, canvas, arc(0.42, 1.15 * math.pi, 1.85 * math.pi))
    for x in (-0.28, 0.28):
        chrome.stroke(page, canvas, [(x, 0.18), (x, 0.34)])
    run(page, "points")


def arc(radius, begin, end):
    """Places along an arc, in the canvas's square from -1 to 1."""
    angles = [begin + (end - begin) * i / 24 for i in range(25)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


SCENES = {
    "draw": draw,
    "inpaint": inpaint,
    "interpolate": interpolate,
    "points": points,
}


def photograph(page):
    """Return the whole page, as far as there is something on it."""
    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    away = {"type": "mouseMoved", "x": 1, "y": 1}
    page.execute_cdp_cmd("Input.dispatchMouseEvent", away)
    time.sleep(1)  # buttons fade, and panels unfold
    height = page.execute_script(
        "return document.querySelector('.gradio-container').getBoundingClientRect()"
        ".height"
    )
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    shot = page.execute_cdp_cmd(
        "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
    )
    taken = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    # Half the bytes; 256 colours are about all there are.
    return taken.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def take(page, address, folder, *, rehearsals=0):
    """Play all scenes and write playground-NAME.png of each.

    The seconds on a picture are those of compiled programs if it was rehearsed.
    """
    page.set_window_size(WIDTH, 1000)
    for name, scene in SCENES.items():
        for _ in range(rehearsals + 1):
            scene(chrome.open_page(page, address))
        photograph(page).save(Path(folder) / f"playground-{name}.png", optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/digits")
    parser.add_argument("--out", default=served.ROOT / "docs")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as downloads,
        served.serving(options.workdir) as (_, address),
        chrome.chromium(downloads) as page,
    ):
        take(page, address, options.out, rehearsals=1)


if __name__ == "__main__":
    main()
