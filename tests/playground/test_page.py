"""The page in a headless Chromium: clicked through, and looked at.

`make test-playground` runs this. It is skipped, and says so, where there is no Chromium
or selenium.
"""

import io
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image
from program import ROOT, TINY_UNET

from ddpm_jax.data import load
from ddpm_jax.playground.pictures import FILES

pytest.importorskip("selenium.webdriver", reason="selenium is missing")
import chrome
import screenshots
from chrome import (
    click,
    fill,
    find,
    paint,
    run,
    take_example,
    text,
    until,
    wait_for,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from served import ENV, PATIENCE, serving

pytestmark = pytest.mark.skipif(
    not (chrome.CHROMIUM and chrome.DRIVER),
    reason="no chromium with chromedriver here; Debian has both as packages",
)
# Long enough a chain to be stopped, and images enough to keep it busy.
RECIPE = ("schedule.num_levels=1000", "sample.num_steps=20", "sample.batch_size=64")


def program(*arguments):
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=ENV, check=True)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    options = [f"--config.{option}" for option in RECIPE]
    program("main.py", f"--config={TINY_UNET}", f"--workdir={folder}", *options)
    return folder


@pytest.fixture(scope="module")
def server(workdir):
    """Start the playground; yield its process and address."""
    with serving(workdir) as process_and_address:
        yield process_and_address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chrome.chromium(tmp_path_factory.mktemp("downloads")) as driver:
        yield driver


@pytest.fixture
def page(server, browser):
    return chrome.open_page(browser, server[1])


def picture(page, mode):
    """Return the pixels that are on the screen."""
    image = find(page, f"#{mode}-sheet img")
    until(page, lambda: page.execute_script("return arguments[0].complete", image))
    assert page.execute_script("return arguments[0].naturalWidth", image) > 0
    return pixels(fetch(image.get_attribute("src")))


def fetch(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read()


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def download(page, mode, name):
    """Click a download button; return what comes."""
    click(page, f"#{mode}-{FILES.index(name)}")
    path = page.downloads / name
    until(page, path.exists)  # it has another name until it is whole
    content = path.read_bytes()
    path.unlink()
    return content


def message(page):
    toast = until(page, lambda: text(page, ".toast-body") or None)
    page.execute_script("document.querySelector('.toast-close').click()")
    until(page, lambda: not text(page, ".toast-body"))  # it fades
    return toast


# --- The tests ------------------------------------------------------------------------


def test_the_image_is_that_of_the_command_line(page, workdir):
    fill(page, "#sample-labels", "7")
    fill(page, "#sample-labels", "none")
    fill(page, "#sample-sampler", "unipc")
    fill(page, "#sample-steps", 12)
    fill(page, "#sample-seed", 5)
    fill(page, "#sample-images", 6)
    run(page, "sample")
    click(page, "#sample-same button")
    line = find(page, "#sample-command .cm-content").text
    python, *words = shlex.split(line)
    assert python == "python" and "--label=7,none" in words
    program(*words)
    folder = max((workdir / "samples").iterdir(), key=lambda path: path.stat().st_mtime)
    drawn = np.asarray(Image.open(folder / "grid.png"))
    np.testing.assert_array_equal(pixels(download(page, "sample", "grid.png")), drawn)
    shown = picture(page, "sample")
    np.testing.assert_array_equal(shown[..., 0] if shown.ndim == 3 else shown, drawn)
    film = pixels(download(page, "sample", "film.png"))
    np.testing.assert_array_equal(film, np.asarray(Image.open(folder / "film.png")))
    with Image.open(io.BytesIO(download(page, "sample", "chain.gif"))) as gif:
        assert gif.format == "GIF" and gif.n_frames == 4
    # All that was asked for came from this machine.
    asked = [
        url
        for entry in page.get_log("performance")
        if "requestWillBeSent" in entry["message"]
        for url in re.findall(r'"url":"(https?://[^/"]*)', entry["message"])
    ]
    assert asked and all(url.startswith("http://127.0.0.1:") for url in asked)


def test_the_film_can_be_drawn_through(page):
    fill(page, "#sample-images", 4)
    run(page, "sample")
    last = picture(page, "sample")
    source = find(page, "#sample-sheet img").get_attribute("src")
    find(page, "#sample-film input[type=range]").send_keys(Keys.HOME)
    until(
        page,
        lambda: find(page, "#sample-sheet img").get_attribute("src") != source,
    )
    noise = picture(page, "sample")
    assert noise.shape == last.shape and (noise != last).any()
    source = find(page, "#sample-sheet img").get_attribute("src")
    click(page, "#sample-view label:nth-of-type(2)")
    until(
        page,
        lambda: find(page, "#sample-sheet img").get_attribute("src") != source,
    )
    assert (picture(page, "sample") != noise).any()


def test_wrong_input_is_named_in_the_page_and_the_server_lives_on(page):
    fill(page, "#sample-steps", 5000)
    click(page, "#sample-go")
    assert "num_steps=5000 is not in 1..T; use 1 to 1000" in message(page)
    wait_for(page, "sample", "Not made")
    fill(page, "#sample-steps", 3)
    fill(page, "#sample-images", 2)
    run(page, "sample")


def long_job(page):
    """Ask for much, and wait until it is under way."""
    fill(page, "#sample-sampler", "heun")
    fill(page, "#sample-steps", 1000)
    fill(page, "#sample-images", 64)
    click(page, "#sample-go")
    wait_for(page, "sample", "of 1000")


def steps_made(page):
    found = re.search(r"Step (\d+) of 1000", text(page, "#sample-status"))
    return int(found[1]) if found else 0


def test_frames_arrive_one_by_one_and_a_stopped_job_stops(page):
    long_job(page)
    until(page, lambda: steps_made(page) > 0)
    find(page, "#sample-sheet img")
    click(page, "#sample-stop")
    wait_for(page, "sample", "Stopped")
    time.sleep(1)  # twice what a part of the chain takes
    assert "Stopped" in text(page, "#sample-status")
    # The device is free: a short job does not wait for a thousand steps.
    fill(page, "#sample-sampler", "ddim")
    fill(page, "#sample-steps", 3)
    run(page, "sample")


def test_the_second_window_shows_its_place_in_the_queue(page, server):
    long_job(page)
    first = page.current_window_handle
    page.switch_to.new_window("tab")
    try:
        page.get(server[1])
        find(page, "#sample-go")
        fill(page, "#sample-steps", 3)
        fill(page, "#sample-images", 2)
        click(page, "#sample-go")
        wait_for(page, "sample", "queue: 1/1")
        second = page.current_window_handle
        page.switch_to.window(first)
        click(page, "#sample-stop")
        wait_for(page, "sample", "Stopped")
        page.switch_to.window(second)
        wait_for(page, "sample", "Done")
    finally:
        page.close()
        page.switch_to.window(first)


def test_an_uploaded_picture_is_noised_and_brought_back(page, tmp_path):
    digit = load("digits", split="train").source[3]["image"][..., 0]
    Image.fromarray(digit).save(tmp_path / "digit.png")
    click(page, "#tab-image-button")
    find(page, "#image-to-image-go")
    upload = page.find_element(
        By.CSS_SELECTOR, "#image-to-image-picture input[type=file]"
    )
    upload.send_keys(str(tmp_path / "digit.png"))
    find(page, "#image-to-image-picture img")
    fill(page, "#image-to-image-level", 50)
    fill(page, "#image-to-image-images", 2)
    run(page, "image-to-image")
    content = io.BytesIO(download(page, "image-to-image", "images.npz"))
    with np.load(content) as stored:
        made = stored["arr_0"]
    assert made.shape == (2, 8, 8, 1)
    near = np.abs(made[..., 0].astype(int) - digit).mean()
    assert near < np.abs(made[..., 0].astype(int) - (255 - digit.astype(int))).mean()


def test_what_is_no_picture_is_refused_in_the_words_of_the_command_line(page, tmp_path):
    (tmp_path / "notes.png").write_text("no picture, whatever its name says")
    click(page, "#tab-inpaint-button")
    find(page, "#inpaint-go")
    upload = page.find_element(By.CSS_SELECTOR, "#inpaint-picture input[type=file]")
    upload.send_keys(str(tmp_path / "notes.png"))
    assert "cannot read the image" in (said := message(page))
    assert "give a PNG, JPEG, WebP, GIF, TIFF, BMP or PPM file" in said
    fill(page, "#inpaint-picture-number", 99999)
    click(page, "#inpaint-picture-example")
    assert "example 99999 is not among the model's data" in message(page)


def test_what_is_painted_is_filled_and_the_rest_kept(page):
    click(page, "#tab-inpaint-button")
    click(page, "#inpaint-go")
    assert "the picture is missing" in message(page)
    take_example(page, "inpaint", "picture", 0)
    until(page, lambda: "Paint what" in text(page, "#inpaint-mask"))
    click(page, "#inpaint-go")
    assert "nothing is painted" in message(page)
    paint(page, 3, range(2, 7))  # columns 1 to 6 of rows 2 and 3
    fill(page, "#inpaint-images", 2)
    run(page, "inpaint")
    digit = load("digits", split="train").source[0]["image"][..., 0]
    with np.load(io.BytesIO(download(page, "inpaint", "images.npz"))) as stored:
        made = stored["arr_0"][..., 0]
    changed = (made != digit).any(axis=0)
    assert changed.any()
    filled = np.zeros((8, 8), bool)
    filled[2:4, 1:7] = True
    assert not changed[~filled].any()


def test_a_walk_between_two_pictures_starts_and_ends_at_them(page):
    click(page, "#tab-interpolate-button")
    take_example(page, "interpolate", "picture", 0)
    take_example(page, "interpolate", "other", 1)
    fill(page, "#interpolate-points", 4)
    run(page, "interpolate")
    assert "Done" in text(page, "#interpolate-status")
    with np.load(io.BytesIO(download(page, "interpolate", "images.npz"))) as stored:
        made = stored["arr_0"][..., 0].astype(int)
    source = load("digits", split="train").source
    first, last = (source[i]["image"][..., 0].astype(int) for i in (0, 1))
    assert len(made) == 4
    assert np.abs(made[0] - first).mean() < np.abs(made[0] - last).mean()
    assert np.abs(made[-1] - last).mean() < np.abs(made[-1] - first).mean()


# --- Drawn points ---------------------------------------------------------------------


def test_points_are_drawn_and_trained_on_and_the_chain_is_seen(browser):
    with serving() as (_, address):
        page = chrome.open_page(browser, address, "#points-go")
        assert not page.find_elements(By.CSS_SELECTOR, "#sample-go")
        click(page, "#points-go")
        assert "0 points are drawn; draw 20" in message(page)
        canvas = "#points-canvas canvas"
        chrome.stroke(page, canvas, [(x, 0.5) for x in np.linspace(-0.8, 0.8, 20)])
        until(page, lambda: re.match(r"\d+ points", text(page, "#points-canvas .hint")))
        run(page, "points")
        click(page, "#points-1")
        path = page.downloads / "points.csv"
        until(page, path.exists)
        head, *lines = path.read_text().splitlines()
        points = np.array([line.split(",") for line in lines], float)
        assert head == "x,y" and len(points) > 100
        assert abs(points[:, 1].mean() - 0.5) < 0.02 and points[:, 1].std() < 0.08
        assert points[:, 0].min() < -0.7 and points[:, 0].max() > 0.7
        # Noise is all over the square, and the samples lie along the line.
        ended = orange(picture(page, "points"))
        fill(page, "#points-frame", 0)
        until(page, lambda: orange(picture(page, "points"))[0] > 2 * ended[0])


def orange(pixels):
    """Return over how many rows, and columns, the points of a plot are spread."""
    is_point = np.abs(pixels[..., :3].astype(int) - (213, 94, 0)).max(axis=-1) < 60
    return is_point.any(axis=1).sum(), is_point.any(axis=0).sum()


def test_a_known_set_is_laid_on_the_canvas_and_cleared(browser):
    with serving() as (_, address):
        page = chrome.open_page(browser, address, "#points-go")
        find(page, "#points-preset input[value=moons]").click()
        hint = "#points-canvas .hint"
        until(page, lambda: "1500 points" in text(page, hint))
        click(page, "#points-canvas .clear")
        until(page, lambda: "Press and draw" in text(page, hint))


def test_the_pictures_of_the_document_can_be_taken(page, server, tmp_path):
    screenshots.take(page, server[1], tmp_path)
    document = (ROOT / "docs" / "playground.md").read_text()
    shown = re.findall(r"\((playground-[\w-]+\.png)\)", document)
    assert sorted(shown) == sorted(path.name for path in tmp_path.iterdir())
    for name in shown:
        with Image.open(tmp_path / name) as taken:
            assert taken.width == screenshots.WIDTH
            far = np.abs(np.asarray(taken.convert("RGB")).astype(int) - (249, 115, 22))
            # The orange of the button, which is lowest on the left.
            assert (far.max(axis=-1) < 8).any(axis=1).sum() > 30


def test_a_port_that_is_taken_is_refused_in_one_line(server, workdir):
    port = server[1].rpartition(":")[2]
    started = subprocess.run(
        [
            *(sys.executable, "-m", "ddpm_jax.playground"),
            *(f"--workdir={workdir}", f"--port={port}"),
        ],
        cwd=ROOT,
        env=ENV,
        capture_output=True,
        text=True,
    )
    assert started.returncode == 2
    assert f"port {port} cannot be used" in started.stderr
    assert started.stderr.count("\n") == 1


def test_ctrl_c_ends_it_without_a_word(server):
    """Last, for the server is gone then."""
    process, _ = server
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Traceback" not in out + err
