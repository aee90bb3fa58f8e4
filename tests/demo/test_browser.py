"""The page in headless Chromium: upload, restore, compare, look closely, download."""

import base64
import shutil
import time

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra demo")
pytest.importorskip("selenium", reason="the browser is driven by selenium, of the extra test")

from daa_diffusers.cli.app import main
from daa_diffusers.demo.serving import Settings, served
from daa_diffusers.demo.views import CROP

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
PATIENCE = 240.0
FETCH = """
const done = arguments[1];
fetch(arguments[0]).then(r => r.arrayBuffer()).then(b => done(btoa(String.fromCharCode(...new Uint8Array(b)))));
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(Settings(runs=tmp_path_factory.mktemp("runs"), device="cpu")) as found:
        yield found


@pytest.fixture(params=[(1280, 1000), (390, 844)], ids=["desktop", "phone"])
def browser(request, address):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its driver (apt install chromium chromium-driver)")
    width, height = request.param
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        f"window-size={width},{height}",
    ):
        options.add_argument(f"--{argument}")
    if width < 500:  # narrower than a window can be
        metrics = {"width": width, "height": height, "pixelRatio": 2}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options, Service(driver))
    browser.set_script_timeout(PATIENCE)
    browser.get(address)
    yield browser
    browser.quit()


def until(condition):
    """The first true value of `condition`; what is not on the page yet counts as false."""
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if value := condition():
                return value
        except (WebDriverException, IndexError):
            pass
        time.sleep(0.2)
    raise AssertionError("it never came")


def all_of(browser, selector):
    from selenium.webdriver.common.by import By

    return browser.find_elements(By.CSS_SELECTOR, selector)


def views(browser):
    return [image for image in all_of(browser, "img") if ".view.png" in image.get_attribute("src")]


def test_upload_restore_compare_zoom_and_download(browser, address, photos, tmp_path):
    """Without choosing anything: the file is the one that `daa restore` writes."""
    from selenium.webdriver import ActionChains

    upload = until(lambda: all_of(browser, "#photo input[type=file]")[0])
    upload.send_keys(photos["side.jpg"])
    until(lambda: "side" in all_of(browser, "#photo")[0].text)
    browser.execute_script("arguments[0].click()", all_of(browser, "#restore")[0])
    report = until(lambda: all_of(browser, ".report textarea")[0].get_property("value"))
    assert report.startswith("side.jpg: 128 x 96 pixels, jpeg of 8 bits"), report

    until(lambda: len(views(browser)) == 2)
    assert {image.get_property("naturalWidth") for image in views(browser)} == {96}  # upright
    assert [one.text for one in all_of(browser, ".sides span") if one.is_displayed()] == ["before", "after"]
    assert not all_of(browser, ".slider-wrap label")  # which would lie over the photo
    handle = all_of(browser, ".slider-wrap .inner")[0]
    place = handle.location["x"]
    ActionChains(browser).drag_and_drop_by_offset(handle, 30, 0).perform()
    until(lambda: 15 < handle.location["x"] - place < 45)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    browser.execute_script("arguments[0].click()", all_of(browser, "#zoom label")[1])
    until(lambda: {image.get_property("naturalWidth") for image in views(browser)} == {CROP[0]})

    link = until(lambda: all_of(browser, "#result a")[0])
    got = base64.b64decode(browser.execute_async_script(FETCH, link.get_attribute("href")))
    command = ["restore", photos["side.jpg"], "-o", str(tmp_path), "--device", "cpu"]
    assert main(command) == 0
    assert got == (tmp_path / "side.jpg").read_bytes()
    assert Image.open(tmp_path / "side.jpg").getexif()[0x010F] == "Camera"

    asked = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert asked and not [
        message for message in asked if '"url":"http' in message and f'"url":"{address}' not in message
    ]


def overlap(one, other):
    return all(
        one.rect[at] < other.rect[at] + other.rect[side] and other.rect[at] < one.rect[at] + one.rect[side]
        for at, side in (("x", "width"), ("y", "height"))
    )


def test_the_page_says_what_is_for_what_and_shows_all_of_it(browser):
    from selenium.webdriver import Keys

    for choice, text, first in (
        ("#checkpoint", "#purpose", "Trained on synthetic photos only"),
        ("#start-from", "#start-purpose", "Trained on synthetic photos only"),
    ):
        if choice == "#start-from":
            (tab,) = (tab for tab in all_of(browser, "button[role=tab]") if tab.text == "Adapt to my photos")
            browser.execute_script("arguments[0].click()", tab)
        until(lambda: all_of(browser, text)[0].text.startswith("Removes the noise of cameras."))  # noqa: B023
        assert first in all_of(browser, text)[0].text
        box = all_of(browser, f"{choice} input")[0]
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys("daa-derain", Keys.ENTER)
        until(lambda: all_of(browser, text)[0].text.startswith("Removes rain streaks."))  # noqa: B023
        box.click()
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys("somebody/theirs", Keys.ENTER)
        until(lambda: all_of(browser, text)[0].text.startswith("A folder or Hub id"))  # noqa: B023

    uploads = until(lambda: [one for one in all_of(browser, ".upload") if one.is_displayed()])
    for upload in uploads:
        (label, icon) = all_of(upload, "label")[0], all_of(upload, ".icon-wrap svg")[0]
        assert not overlap(label, icon), (upload.text, label.rect, icon.rect)


def test_the_examples_have_pictures_and_restore_by_a_click(browser):
    until(lambda: len(all_of(browser, ".gallery-item img")) == 3)
    pictures = all_of(browser, ".gallery-item img")
    until(lambda: all(picture.get_property("naturalWidth") > 50 for picture in pictures))
    browser.execute_script("arguments[0].click()", all_of(browser, ".gallery-item")[1])
    report = until(lambda: all_of(browser, ".report textarea")[0].get_property("value"))
    assert report.startswith("coffee.png: 600 x 400 pixels, png of 8 bits"), report
