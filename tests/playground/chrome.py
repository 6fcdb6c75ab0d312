"""A headless Chromium that looks at a playground, and fingers and eyes."""

import shutil
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from served import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@contextmanager
def chromium(downloads):
    """Open a browser without a network, which keeps what it downloads in a folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(downloads)}
    )
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        # It must work without a network: no name can be looked up.
        *(
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--window-size=1240,1500",
        ),
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.downloads = downloads
    try:
        yield driver
    finally:
        driver.quit()


def open_page(browser, address, ready="#sample-go"):
    """Get a fresh page, ready to be clicked."""
    browser.get(address)
    find(browser, ready)
    return browser


def until(page, condition, seconds=PATIENCE):
    return WebDriverWait(page, seconds, poll_frequency=0.1).until(lambda _: condition())


def find(page, selector):
    """Wait for what is to be seen."""

    def seen():
        found = page.find_elements(By.CSS_SELECTOR, selector)
        return next((element for element in found if element.is_displayed()), None)

    return until(page, seen)


def text(page, selector):
    return page.execute_script(
        "return document.querySelector(arguments[0])?.innerText || ''", selector
    )


def fill(page, selector, value):
    field = find(page, f"{selector} input")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(str(value), Keys.ENTER)


def click(page, selector):
    page.execute_script("arguments[0].scrollIntoView()", find(page, selector))
    find(page, selector).click()


def wait_for(page, mode, word):
    until(page, lambda: word in text(page, f"#{mode}-status"))


def run(page, mode):
    """Run a job to its end; the first of a fresh page, which is not done with any."""
    assert "Done" not in text(page, f"#{mode}-status")
    click(page, f"#{mode}-go")
    wait_for(page, mode, "Done")


def take_example(page, mode, name, number):
    """Choose a picture of the model's data, and wait until it is there."""
    fill(page, f"#{mode}-{name}-number", number)
    click(page, f"#{mode}-{name}-example")
    find(page, f"#{mode}-{name} img")


def paint(page, row, columns):
    """Draw a stroke between rows of an 8x8 picture, from corner to corner of pixels.

    The brush, 2 wide, covers the four pixels around a corner.
    """
    until(page, lambda: "Paint what" in text(page, "#inpaint-mask"))
    canvas = find(page, "#inpaint-mask canvas")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    stroke(
        page, "#inpaint-mask canvas", [((x - 4) / 4, (4 - row) / 4) for x in columns]
    )


def stroke(page, selector, places):
    """Draw on a canvas from place to place; it reaches from -1 to 1, y upwards."""
    canvas = find(page, selector)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    half = [canvas.size[name] / 2 for name in ("width", "height")]
    offsets = [(round(x * half[0]), round(-y * half[1])) for x, y in places]
    pointer = webdriver.ActionChains(page, duration=20)
    pointer.move_to_element_with_offset(canvas, *offsets[0]).click_and_hold()
    for offset in offsets[1:]:
        pointer.move_to_element_with_offset(canvas, *offset)
    pointer.release().perform()
