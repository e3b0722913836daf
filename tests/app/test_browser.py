"""The page in a real Chromium: keyboard, sound while it is made, microphone, errors as sentences, a narrow screen."""

import csv
import io
import time
import zipfile
from importlib.resources import files
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import soundfile
import spoken
from browser import chromium, complaints, needs_chromium
from served import SAID, Gated, running
from tiny import SAMPLING_RATE
from whispers import fake_whisper

pytestmark = needs_chromium

SECONDS = 120
# Whose recording the microphone hears.
MICROPHONE = "heart"


def watched(driver, **more):
    """A browser: `see` finds, `when` waits; what never comes fails with what the page shows instead."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def see(selector):
        return driver.find_elements(By.CSS_SELECTOR, selector)

    def when(condition):
        try:
            return WebDriverWait(driver, SECONDS, poll_frequency=0.05).until(lambda _: condition())
        except TimeoutException as error:
            shown = driver.find_element(By.TAG_NAME, "body").text
            raise AssertionError(f"not within {SECONDS} s; shown: {shown!r}; console: {complaints(driver)}") from error

    return SimpleNamespace(driver=driver, see=see, when=when, **more)


@pytest.fixture(scope="module")
def site(speaker, voices, tmp_path_factory):
    """A page whose speaker waits to be let, and a browser with a microphone."""
    from dtm_hf.app.arms import Arms
    from dtm_hf.app.desk import Desk
    from dtm_hf.app.ears import LateEars
    from dtm_hf.app.site import create_site, page_folder
    from dtm_hf.evaluation.recognizers import VocabularyRecognizer
    from dtm_hf.evaluation.recognizers.vocabulary import vocabulary_of
    from dtm_hf.runtime import Batcher

    gated, recording = Gated(speaker), files("dtm_hf") / f"assets/dtm-f5-voice/reference-{MICROPHONE}.wav"
    hear = VocabularyRecognizer(vocabulary_of(spoken.text(MICROPHONE)))
    with pytest.MonkeyPatch.context() as patch, page_folder() as folder, Batcher(gated) as batcher:
        fake_whisper(patch, here=False, transcribe=hear.transcribe)
        desk = Desk({"tiny": batcher}, voices, LateEars().transcribe)
        app = create_site(desk, Arms(speaker.pipeline), folder, "tiny")
        with running(app) as url, chromium(tmp_path_factory.mktemp("browser"), microphone=recording) as driver:
            # No chunk waits for a permit but where a test takes them back.
            gated.let()
            yield watched(driver, gated=gated, url=url, folder=folder)
            gated.let()


@pytest.fixture
def fresh(site):
    """The page, loaded anew; at its end its console has no complaint."""
    site.driver.get(site.url)
    site.when(lambda: site.see("#text textarea"))
    yield site
    assert complaints(site.driver) == []


def write(site, selector, text):
    site.when(lambda: site.see(selector) and site.see(selector)[0].is_displayed())
    site.see(selector)[0].clear()
    site.see(selector)[0].send_keys(text)


def open_tab(site, name):
    from selenium.webdriver.common.by import By

    (tab,) = [tab for tab in site.driver.find_elements(By.CSS_SELECTOR, "button[role=tab]") if tab.text == name]
    tab.click()


def press(site, selector):
    """A click on the one of these buttons that is shown, as soon as it is."""
    site.when(lambda: any(button.is_displayed() for button in site.see(selector)))
    next(button for button in site.see(selector) if button.is_displayed()).click()


def told(site):
    """The sentence of the error that is shown."""
    text = site.when(lambda: [toast.text for toast in site.see(".toast-body.error") if toast.text])[0]
    return " ".join(text.split())


def test_speaking_with_the_keyboard_alone(fresh):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        ActionChains(fresh.driver).send_keys(*keys).perform()

    def focused():
        return fresh.driver.execute_script("return (document.activeElement.closest('[id]') || {}).id")

    def reach(name):
        for _ in range(40):
            if focused() == name:
                return
            press(Keys.TAB)
        raise AssertionError(f"{name} cannot be reached")

    reach("text")
    press("Hello there. Yes.")
    reach("speak")
    press(Keys.ENTER)
    fresh.when(lambda: fresh.see("#mel img"))
    figures = fresh.when(lambda: fresh.see("#figures")[0].text)
    assert "s of speech in" in figures and "real-time factor" in figures and "passes in 2 chunks." in figures


def test_it_is_heard_while_it_is_made(fresh):
    while fresh.gated.permits.acquire(blocking=False):
        pass
    fresh.gated.let(1)
    write(fresh, "#text textarea", "Hello there, all of you. Good morning.")
    fresh.see("#speak")[0].click()
    heard = "let box = document.querySelector('#live .dtm-live'); return box && box.context && box.context.currentTime"
    # The second sentence has not been spoken yet.
    fresh.when(lambda: (fresh.driver.execute_script(heard) or 0) > 0.2)
    assert fresh.see("#figures")[0].text.endswith("1 chunk ...")
    first = fresh.see("#live span")[0].text
    assert float(first.removesuffix(" s")) > 0.2
    fresh.gated.let()
    fresh.when(lambda: fresh.see("#figures")[0].text.endswith(" chunks."))
    fresh.when(lambda: float(fresh.see("#live span")[0].text.removesuffix(" s")) > float(first.removesuffix(" s")))
    # When all of it has been heard there is nothing left to pause.
    fresh.when(lambda: not fresh.see("#live button")[0].is_enabled())


def test_an_end_that_is_known_after_it_was_heard_is_an_end(fresh):
    """Speech may be made more slowly than it is heard: here a second passes between the samples and their end."""
    # Sound needs a click.
    open_tab(fresh, "Table")
    fresh.driver.execute_script(
        """
        const content = new ReadableStream({ start(stream) {
          stream.enqueue(new Uint8Array(4800));
          setTimeout(() => stream.close(), 1000);
        }});
        const fetched = window.fetch;
        window.fetch = async () => { window.fetch = fetched; return { body: content }; };
        const box = Object.assign(document.createElement("div"), { id: "late", className: "dtm-live" });
        Object.assign(box.dataset, { src: "late.pcm", rate: 24000 });
        box.append(document.createElement("button"), document.createElement("span"));
        document.body.append(box);
        """
    )
    fresh.when(lambda: fresh.see("#late span")[0].text == "0.1 s")
    fresh.when(lambda: not fresh.see("#late button")[0].is_enabled())


def test_what_cannot_be_spoken_is_told_in_a_sentence(fresh, tmp_path):
    write(fresh, "#text textarea", "  ")
    fresh.see("#speak")[0].click()
    assert "“Text” must not be empty" in told(fresh)
    fresh.driver.refresh()
    fresh.when(lambda: fresh.see("#text textarea"))
    open_tab(fresh, "Long text")
    write(fresh, "#long-text textarea", "[carl] Hello.")
    fresh.see("#speak-long")[0].click()
    assert "“Voice” in brackets must be one of ['anna', 'ben'], but got 'carl'" in told(fresh)
    fresh.driver.refresh()
    fresh.when(lambda: fresh.see("#text textarea"))
    open_tab(fresh, "Table")
    (tmp_path / "table.csv").write_text("voice\nanna\n")
    fresh.when(lambda: fresh.see("#table input[type=file]"))[0].send_keys(str(tmp_path / "table.csv"))
    fresh.when(lambda: "table" in fresh.see("#table")[0].text)
    fresh.see("#speak-table")[0].click()
    assert "must have a column “text”" in told(fresh)


def spoken_alone(speaker, voices, voice, text):
    """Samples `(T,)` of a text in a voice, by the pipeline itself."""
    recording = voices[voice]
    parts = speaker.pipeline.stream(text, str(recording.audio), recording.text, generator=speaker.noise(0))
    return np.clip(np.concatenate(list(parts)), -1, 1)


def test_long_text_is_spoken_paragraph_by_paragraph_in_its_voices(fresh, speaker, voices):
    open_tab(fresh, "Long text")
    write(fresh, "#long-text textarea", "[ben] Hello there.\n\n[anna] Good day.")
    fresh.see("#speak-long")[0].click()
    fresh.when(lambda: fresh.see("#long-figures")[0].text.endswith(" in 2 chunks."))
    rows = fresh.gated.rows[-2:]
    assert [(row.text, row.reference.text) for row in rows] == [
        ("Hello there.", "What was said. "),
        ("Good day.", f"{SAID} "),
    ]
    link = fresh.when(lambda: fresh.see("#long-speech a[download]"))[0].get_attribute("href")
    whole, rate = soundfile.read(io.BytesIO(httpx.get(link).content))
    parts = [spoken_alone(speaker, voices, *each) for each in (("ben", "Hello there."), ("anna", "Good day."))]
    expected = np.concatenate([parts[0], np.zeros(int(0.3 * SAMPLING_RATE)), parts[1]])
    assert rate == SAMPLING_RATE
    np.testing.assert_allclose(whole, expected, atol=1e-3)


def test_a_table_goes_in_and_a_zip_of_wavs_comes_out(fresh, speaker, voices, tmp_path):
    open_tab(fresh, "Table")
    (tmp_path / "lines.csv").write_text("text,voice\nHello there.,ben\nHi.,carl\nGood day.,\n")
    fresh.when(lambda: fresh.see("#table input[type=file]"))[0].send_keys(str(tmp_path / "lines.csv"))
    fresh.when(lambda: "lines" in fresh.see("#table")[0].text)
    fresh.see("#speak-table")[0].click()
    fresh.when(lambda: "2 of 3 rows spoken" in fresh.see("#table-figures textarea")[0].get_property("value"))
    assert "row 2: “Voice” must be one of" in fresh.see("#table-figures textarea")[0].get_property("value")
    link = fresh.when(lambda: fresh.see("#archive a[download]"))[0].get_attribute("href")
    assert link.endswith("/speech.zip")
    with zipfile.ZipFile(io.BytesIO(httpx.get(link).content)) as archive:
        assert archive.namelist() == ["0001.wav", "0003.wav", "index.csv"]
        waves = [soundfile.read(io.BytesIO(archive.read(name))) for name in archive.namelist()[:2]]
        index = list(csv.DictReader(io.StringIO(archive.read("index.csv").decode(), newline="")))
    assert [row["file"] for row in index] == ["0001.wav", "", "0003.wav"]
    for (wave, rate), (voice, text) in zip(waves, (("ben", "Hello there."), ("anna", "Good day.")), strict=True):
        assert rate == SAMPLING_RATE
        np.testing.assert_allclose(wave, spoken_alone(speaker, voices, voice, text), atol=1e-3)


def test_what_the_microphone_hears_is_written_down_and_spoken_like(fresh):
    press(fresh, "#own button")
    press(fresh, "#recording [aria-label='Record audio']")
    # It offers to download what was recorded, and not to publish it.
    assert not fresh.see("#recording [aria-label='Share']")
    press(fresh, "#recording .record-button")
    # The sentence that is said takes 3.4 s.
    time.sleep(5)
    press(fresh, "#recording .stop-button")
    # What it is loaded for, and that it is downloaded, is said when it is.
    fresh.when(lambda: any("Downloading" in toast.text for toast in fresh.see(".toast-body.info")))
    said = fresh.when(lambda: fresh.see("#said textarea")[0].get_property("value"))
    assert "by the river when" in said
    write(fresh, "#text textarea", "Hello there.")
    press(fresh, "#speak")
    fresh.when(lambda: fresh.see("#mel img"))
    reference = fresh.gated.rows[-1].reference
    assert reference.text == f"{said}. " and 2.5 < reference.seconds < 6
    # What was heard in a recording goes with it.
    press(fresh, "#recording [aria-label='Clear']")
    fresh.when(lambda: not fresh.see("#said textarea")[0].get_property("value"))
    write(fresh, "#said textarea", said)
    press(fresh, "#speak")
    assert "“Recording” is missing" in told(fresh)


def test_where_there_is_no_microphone_the_page_says_so(site, tmp_path):
    with chromium(tmp_path) as driver:
        deaf = watched(driver)
        driver.get(site.url)
        press(deaf, "#own button")
        press(deaf, "#recording [aria-label='Record audio']")
        deaf.when(lambda: "No microphone found" in deaf.see("#recording")[0].text)
        assert complaints(driver) == []


def test_an_upload_that_is_too_large_is_told_in_a_sentence_and_leaves_nothing(site, tmp_path):
    with open(tmp_path / "large.wav", "wb") as file:
        file.truncate(200 * 2**20)
    site.driver.get(site.url)
    press(site, "#own button")
    before = sorted(site.folder.rglob("*"))
    site.when(lambda: site.see("#recording input[type=file]"))[0].send_keys(str(tmp_path / "large.wav"))
    assert "exceed the maximum allowed size of 25.0 Mb" in told(site)
    assert sorted(site.folder.rglob("*")) == before
    # Gradio notes what it was refused.
    complaints(site.driver)


def test_a_page_that_was_closed_is_not_spoken_for(fresh):
    driver, first, before = fresh.driver, fresh.driver.current_window_handle, len(fresh.gated.rows)
    while fresh.gated.permits.acquire(blocking=False):
        pass
    driver.switch_to.new_window("tab")
    driver.get(fresh.url)
    fresh.when(lambda: fresh.see("#text textarea"))
    write(
        fresh, "#text textarea", "One one one one one. Two two two two two. Three three three. Four four four. Five."
    )
    press(fresh, "#speak")
    fresh.when(lambda: len(fresh.gated.rows) > before)
    driver.close()
    driver.switch_to.window(first)
    # The server learns of it.
    time.sleep(2)
    fresh.gated.let()
    write(fresh, "#text textarea", "Last.")
    press(fresh, "#speak")
    fresh.when(lambda: fresh.see("#mel img"))
    texts = fresh.gated.texts[before:]
    assert texts[-1] == "Last." and len(texts) <= 3


def test_two_tabs_at_once(fresh):
    driver, first = fresh.driver, fresh.driver.current_window_handle
    while fresh.gated.permits.acquire(blocking=False):
        pass
    driver.switch_to.new_window("tab")
    second = driver.current_window_handle
    driver.get(fresh.url)
    for window, text in ((first, "Hello."), (second, "Good morning to you, and to all the others who are with us.")):
        driver.switch_to.window(window)
        fresh.when(lambda: fresh.see("#text textarea"))
        write(fresh, "#text textarea", text)
        fresh.see("#speak")[0].click()
    fresh.gated.let()
    figures = []
    for window in (second, first):
        driver.switch_to.window(window)
        fresh.when(lambda: fresh.see("#mel img"))
        figures.append(fresh.see("#figures")[0].text)
        if window == second:
            driver.close()
    assert figures[0].split(" of ")[0] != figures[1].split(" of ")[0]


def test_ways_to_speak_stand_side_by_side_with_their_cost(fresh):
    open_tab(fresh, "Compare")
    write(fresh, "#compare-text textarea", "Hello there.")
    fresh.see("#compare")[0].click()
    fresh.when(lambda: len([player for player in fresh.see("[id^=arm-]") if "passes" in player.text]) == 3)
    labels = [player.text.splitlines()[0] for player in fresh.see("[id^=arm-]") if "passes" in player.text]
    assert [label.split(",")[0] for label in labels] == [
        "euler-32: 64 passes",
        "epss-7: 14 passes",
        "dtm-4x1: 4 passes",
    ]


def test_a_narrow_screen_needs_no_scrolling_aside(fresh):
    fresh.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        time.sleep(0.3)
        wide = "return [window.innerWidth, document.documentElement.scrollWidth]"
        assert fresh.driver.execute_script(wide) == [390, 390]
        assert fresh.see("#speak")[0].is_displayed()
    finally:
        fresh.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
