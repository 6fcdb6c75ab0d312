"""Take the pictures of docs/playground.md anew, from the model that `make demo` trains.

    .venv/bin/python tests/playground/screenshots.py

After `make test-playground`, which installs what it needs, and `make demo`.
"""

import base64
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))

import test_page as hands
from program import ROOT

WIDTH = 1200


def shoot(page, name):
    """Store the whole page, however long, as docs/NAME."""
    height = page.execute_script("return document.documentElement.scrollHeight")
    view = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    taken = page.execute_cdp_cmd(
        "Page.captureScreenshot", {"clip": view, "captureBeyondViewport": True}
    )
    (ROOT / "docs" / name).write_bytes(base64.b64decode(taken["data"]))


def draw(page):
    hands.fill(page, "#sample-sampler", "ddim")
    hands.fill(page, "#sample-images", 20)
    hands.run(page, "sample")
    shoot(page, "playground-draw.png")


def inpaint(page):
    hands.click(page, "#tab-inpaint-button")
    hands.fill(page, "#inpaint-picture-number", 7)
    hands.click(page, "#inpaint-picture-example")
    hands.until(page, lambda: "Paint what" in hands.text(page, "#inpaint-mask"))
    canvas = hands.find(page, "#inpaint-mask canvas")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    cell = canvas.size["width"] / 8
    stroke = hands.webdriver.ActionChains(page)
    for row in (1, 3):  # below the middle; the brush covers two rows
        stroke.move_to_element_with_offset(canvas, round(-3 * cell), round(row * cell))
        stroke.click_and_hold()
        for column in range(-3, 4):
            stroke.move_to_element_with_offset(
                canvas, round(column * cell), round(row * cell)
            )
        stroke.release()
    stroke.perform()
    hands.fill(page, "#inpaint-images", 9)
    hands.run(page, "inpaint")
    shoot(page, "playground-inpaint.png")


def interpolate(page):
    hands.click(page, "#tab-interpolate-button")
    for name, number in (("picture", 3), ("other", 8)):
        hands.fill(page, f"#interpolate-{name}-number", number)
        hands.click(page, f"#interpolate-{name}-example")
        hands.find(page, f"#interpolate-{name} img")
    hands.fill(page, "#interpolate-points", 8)
    hands.run(page, "interpolate")
    shoot(page, "playground-interpolate.png")


def main():
    with tempfile.TemporaryDirectory() as folder, hands.serving("runs/digits") as at:
        driver = hands.chromium(Path(folder))
        driver.set_window_size(WIDTH, 1000)
        for task in (draw, inpaint, interpolate):
            driver.get(at[1])
            hands.find(driver, "#sample-go")
            task(driver)
        driver.quit()


if __name__ == "__main__":
    main()
