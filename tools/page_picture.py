"""The picture of the page in the docs: `python -m tools.page_picture` starts the service and takes it.

It needs chromium and its driver, as the tests of the page do (`make browser`).
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

PORT, WIDTH, SCALE = 8765, 1180, 1.25
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "serve.png"


def take(url: str) -> bytes:
    """Returns a PNG of the whole page after its example was classified twice, the second time warm."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tempfile.mkdtemp()}")
    options.binary_location = str(shutil.which("chromium"))
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        size = {"width": WIDTH, "height": 900, "deviceScaleFactor": SCALE, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(url)
        for _ in range(2):
            driver.execute_script("document.getElementById('form').requestSubmit()")
            WebDriverWait(driver, 30).until(
                lambda _: driver.find_element(By.ID, "answer").get_attribute("aria-busy") == "false"
            )
        size["height"] = driver.execute_script("return document.documentElement.scrollHeight")
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        found = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        return base64.b64decode(found["data"])


def main() -> None:
    """Writes the picture."""
    command = [sys.executable, "-m", "gliclass_fast", "serve", "--device", "cpu", "--port", str(PORT)]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while '"event": "ready"' not in (service.stderr.readline() if service.stderr else ""):
            pass
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_bytes(take(f"http://127.0.0.1:{PORT}/"))
    finally:
        service.terminate()
        service.wait()


if __name__ == "__main__":
    main()
