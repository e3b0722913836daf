"""Chromium without a screen, driven by Selenium, where the system has it."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="Debian's chromium and chromium-driver are not installed"
)
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
)


@contextmanager
def chromium(folder: Path, width: int = 1100, height: int = 1000, microphone: Path | None = None):
    """A browser of its own, whose profile and downloads lie in a folder; its microphone hears a WAV, once."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    more = [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"]
    if microphone is not None:
        more += ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        more += [f"--use-file-for-fake-audio-capture={microphone}%noloop"]
    for option in (*_OPTIONS, *more):
        options.add_argument(option)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def complaints(driver) -> list[str]:
    """What the console of the page says that is an error."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
