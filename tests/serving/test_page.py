"""The page at / in a real browser, against the real service with the demo checkpoint.

Chromium and its driver come from the system: `make browser` installs them on Debian.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.serving.app import PAGE, create_app
from gliclass_fast.serving.settings import ServeSettings
from tests.serving.running import running

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ALONE = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
TEXT = """Say "hello" to NASA's rover: it's on Mars — 火星, \\n costs $5 & `more`"""
LABELS = ["space exploration", "l'été", 'a "quote"', "banking", "$HOME"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    assert shutil.which("chromium") and shutil.which("chromedriver"), "`make browser` installs both"
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (*ALONE.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        yield driver


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(ServeSettings(device="cpu"))) as url:
        yield url


class Page:
    """What a person does with the page, and sees."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        driver.get(url)
        self.wait(lambda _: "tokens" in self.text("facts"))

    def __getitem__(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def wait(self, condition: Any) -> None:
        WebDriverWait(self.driver, 20, poll_frequency=0.02).until(condition)

    def text(self, name: str) -> str:
        return str(self[name].text)

    def write(self, name: str, value: str) -> None:
        self[name].clear()
        self[name].send_keys(value)

    def set_threshold(self, value: float) -> None:
        self.driver.execute_script(
            "const [slider, value] = arguments; slider.value = value;"
            "slider.dispatchEvent(new Event('input', {bubbles: true}))",
            self["threshold"],
            value,
        )

    def classify(self) -> None:
        self["text"].send_keys(Keys.CONTROL, Keys.ENTER)
        self.wait(lambda _: self["answer"].get_attribute("aria-busy") == "false")

    @property
    def scores(self) -> list[tuple[str, float, bool]]:
        """The labels, their scores, and whether each bar is one of those that count."""
        rows = self["scores"].find_elements(By.TAG_NAME, "li")
        return [(*_label_and_score(row.text), row.get_attribute("class") == "passed") for row in rows]


def _label_and_score(text: str) -> tuple[str, float]:
    label, score = text.rsplit("\n", 1)
    return label, float(score)


def expected(text: str, labels: list[str]) -> list[tuple[str, float]]:
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    found = pipeline(text, labels, threshold=0)[0]
    ranked = sorted(found, key=lambda each: -each["score"])
    return [(each["label"], round(each["score"], 3)) for each in ranked]


def test_scores_and_their_threshold(driver: Any, address: str) -> None:
    page = Page(driver, address)
    assert "model demo" in page.text("facts").replace("\n", " ") and page["scores"].is_displayed() is False
    page.write("text", TEXT)
    page.write("labels", ",\n".join([*LABELS, LABELS[0], " "]))
    page.classify()
    found = expected(TEXT, LABELS)
    assert [(label, score) for label, score, _ in page.scores] == [
        (label, pytest.approx(score, abs=2e-3)) for label, score in found
    ]
    second = page.scores[1][1]
    for level in (second - 0.02, second + 0.02):
        page.set_threshold(level)
        shown = float(page.text("level"))
        assert [passed for *_, passed in page.scores] == [score >= shown for _, score, _ in page.scores]
        passed = sum(score >= shown for _, score, _ in page.scores)
        assert page.text("summary") == f"{passed} of 5 at or above {shown:.2f}"
    widths = driver.execute_script(
        "return [...document.querySelectorAll('.fill')].map(e => e.getBoundingClientRect().width / "
        "e.parentElement.getBoundingClientRect().width)"
    )
    assert widths == [pytest.approx(score, abs=0.02) for _, score, _ in page.scores]
    times = re.findall(r"(\w[\w ]*)\n([\d.]+) ms", page.text("times"))
    assert [name for name, _ in times] == ["queue", "tokenise", "forward", "service", "round trip"]
    forward, service, trip = (float(value) for _, value in times[2:])
    assert 0 < forward <= service <= trip
    page["single"].find_element(By.XPATH, "following-sibling::label").click()
    page.classify()
    page.set_threshold(0.99)  # has no effect, here and in the service
    assert [(label, passed) for label, _, passed in page.scores] == [(found[0][0], True)]
    assert page.text("summary") == "the best label" and not page["threshold"].is_enabled()
    assert "threshold" not in page.text("curl") and "threshold" not in page.text("python")
    assert "single-label" in page.text("curl") and "multi_label=False" in page.text("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(page.text("python"), {})
    assert printed.getvalue().startswith(f"{found[0][0]} ")


def test_the_shown_requests_run(driver: Any, address: str) -> None:
    page = Page(driver, address)
    page.write("text", TEXT)
    page.write("labels", ", ".join(LABELS))
    page.set_threshold(0.1)
    wanted = [(label, score) for label, score in expected(TEXT, LABELS) if score >= 0.1]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(page.text("python"), {})
    rows = [line.rsplit(" ", 1) for line in printed.getvalue().splitlines()]
    assert sorted((label, float(score)) for label, score in rows) == [
        (label, pytest.approx(score, abs=2e-3)) for label, score in sorted(wanted)
    ]
    command = page["curl"].get_attribute("textContent").replace("curl ", "curl -s ", 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert {each["label"] for each in json.loads(done.stdout)["results"][0]} == {label for label, _ in wanted}
    for name in ("curl", "python"):
        driver.find_element(By.CSS_SELECTOR, f"[data-copy={name}]").click()
        page.wait(
            lambda _, name=name: "Copied" in driver.find_element(By.CSS_SELECTOR, f"[data-copy={name}]").text
        )
        page["text"].clear()
        page["text"].send_keys(Keys.CONTROL, "v")
        assert page["text"].get_attribute("value").splitlines()[0] in (
            f"curl {address}/classify \\",
            "from gliclass_fast.serve import GLiClassClient",
        )


def test_nested_labels_and_what_is_wrong(driver: Any, address: str) -> None:
    page = Page(driver, address)
    page.write("labels", '{"topic": ["space", "food"], "tone": ["glad"]}')
    page.classify()
    assert {label for label, *_ in page.scores} == {"topic.space", "topic.food", "tone.glad"}
    for labels, message in (
        ('{"topic": ', "The labels are not valid JSON"),
        (" ", "422 invalid"),
        (", ".join(f"label {index}" for index in range(1001)), "422"),
    ):
        driver.execute_script("arguments[0].value = arguments[1]", page["labels"], labels)
        page.classify()
        assert page.text("error").startswith(message) and not page["scores"].is_displayed()
        if "JSON" in message:
            write_event = "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
            driver.execute_script(write_event, page["labels"])
            assert page.text("curl") == page.text("python") == ""
    page.write("labels", "sports, food")
    page.classify()
    assert not page["error"].is_displayed() and len(page.scores) == 2


def test_a_text_that_is_cut_is_told(driver: Any, address: str) -> None:
    page = Page(driver, address)
    driver.execute_script("arguments[0].value = 'word '.repeat(900)", page["text"])
    page.classify()
    told = re.fullmatch(
        r"The text is longer than the window of 512 tokens: (\d+) tokens at its end were not read\.",
        page.text("cut"),
    )
    assert told is not None and int(told[1]) > 380
    page.write("text", "short")
    page.classify()
    assert not page["cut"].is_displayed()


def test_keys_models_and_labels_of_the_service_and_its_end(driver: Any) -> None:
    settings = ServeSettings(
        device="cpu", api_keys=("secret",), labels=["food", "sports"], more_models={"other": str(demo.PATH)}
    )
    with running(create_app(settings)) as url:
        driver.get(url)
        page = Page.__new__(Page)
        page.driver = driver
        page.wait(lambda _: page["key"].is_displayed())
        for key in ("ключ", "clé"):  # a browser would send the second as Latin-1
            page.write("key", key)
            page.classify()
            assert page.text("error").startswith("The API key cannot be sent\nIt has a character that the")
        page.write("key", "wrong")
        page.classify()
        assert page.text("error").startswith("401 unauthorized")
        page.write("key", "secret")
        page.classify()
        page.wait(lambda _: page["labels"].get_attribute("value") == "food, sports")
        page.classify()
        assert {label for label, *_ in page.scores} == {"food", "sports"}
        assert page["model"].accessible_name == "Model"
        Select(page["model"]).select_by_visible_text("other")
        page.classify()
        assert len(page.scores) == 2 and 'model="other"' in page.text("python")
        for name in ("curl", "python"):
            assert "API_KEY" in page.text(name) and "secret" not in page.text(name)
    page.classify()
    assert page.text("error").startswith("No answer")


@pytest.mark.parametrize(
    "labels", [["good, bad", "bad"], ["[draft]", "b"], ["line\nbreak", "b"], ["{a", "b"], [" a", "b"]]
)
def test_labels_of_the_service_that_commas_would_split(driver: Any, labels: list[str]) -> None:
    with running(create_app(ServeSettings(device="cpu", labels=labels))) as url:
        page = Page(driver, url)
        assert json.loads(page["labels"].get_attribute("value")) == labels
        page.classify()
        assert len(page.scores) == 2


@pytest.mark.parametrize(("level", "shown"), [(0.3, "0.30"), (0.125, "0.125"), (0.0, "0.00"), (1.0, "1.00")])
def test_the_threshold_of_the_service_is_the_first(driver: Any, level: float, shown: str) -> None:
    with running(create_app(ServeSettings(device="cpu", threshold=level))) as url:
        page = Page(driver, url)
        assert page.text("level") == shown and float(page["threshold"].get_attribute("value")) == level
        assert f'"threshold": {level:g},' in page.text("curl")
        assert f"threshold={level:g}," in page.text("python")
        page.classify()
        assert page.text("summary").endswith(f" of 6 at or above {shown}")
        page.set_threshold(0.25)
        assert "threshold=0.25," in page.text("python")


def test_everybody_can_use_it(driver: Any, address: str) -> None:
    """Every control has a name, errors and results are announced, and the dark colours are readable too."""
    page = Page(driver, address)
    page.classify()
    names = {
        each.get_attribute("id") or each.text: each.accessible_name
        for each in driver.find_elements(By.CSS_SELECTOR, "textarea, input, button")
        if each.get_attribute("type") != "password"
    }
    assert names == {
        "text": "Text",
        "labels": "Labels separated by commas",
        "multi": "several",
        "single": "one",
        "threshold": "Threshold lowest score that counts",
        "go": "Classify",
        "Copy": "Copy",
    }
    assert [page[name].get_attribute("role") for name in ("error", "cut", "summary")] == [
        "alert", "status", "status"
    ]  # fmt: skip
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        colours = driver.execute_script(
            "const style = (selector) => getComputedStyle(document.querySelector(selector));"
            "return arguments[0].map(([text, behind]) => [style(text).color, style(behind).backgroundColor])",
            [("body", "body"), (".hint", ".card"), ("#facts li", "#facts li"), ("#go", "#go"),
             (".below .name", ".card"), ("#curl", "pre"), ("#cut", "#cut"), ("#error", "#error")],
        )  # fmt: skip
        for text, behind in colours:
            assert contrast(text, behind) >= 4.5, (scheme, text, behind)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2, of two colours as a browser gives them."""

    def luminance(colour: str) -> float:
        parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_nothing_comes_from_elsewhere(driver: Any, address: str) -> None:
    driver.get_log("browser")  # empties it
    page = Page(driver, address)
    page.classify()
    used = driver.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert used and all(each.startswith(address) for each in used)
    assert driver.get_log("browser") == []
    assert Path(PAGE).stat().st_size < 40_000
