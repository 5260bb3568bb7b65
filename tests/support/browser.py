"""A headless Chromium for tests of pages: Debian's chromium and chromium-driver."""

import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

SIZES = {"wide": 1280, "narrow": 400}
"""Widths in pixels."""


def why_no_browser() -> str:
    """Return why there is no browser to test in; empty: there is one."""
    if find_spec("selenium") is None:
        return "selenium is not installed"
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (Debian: chromium, chromium-driver)" * bool(
        missing
    )


@final
class Page:
    """A report in a browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, *, width: int = SIZES["wide"], dark: bool = False) -> None:
        """Open a file as if for the first time, and wait until all figures are drawn."""
        self.run("try { sessionStorage.clear(); localStorage.clear(); } catch {}")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._send("Emulation.setDeviceMetricsOverride", **size)
        self.driver.get(path.resolve().as_uri())
        self.wait()

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript with ``arguments``, and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str = 'document.body.dataset.drawn === "true"') -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + 120.0
        while not self.run(f"return {condition}"):
            assert time.monotonic() < deadline, f"{condition}: still false after two minutes"
            time.sleep(0.05)

    def act(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript, and wait until what it has changed is drawn."""
        found = self.run(script, *arguments)
        self.wait()
        return found

    def search(self, text: str) -> None:
        """Search as by typing, and wait until it is drawn."""
        self.run(
            "const box = document.getElementById('search'); box.value = arguments[0];"
            "box.dispatchEvent(new Event('input', {bubbles: true}));",
            text,
        )
        self.wait(f"STATE.search === {text!r}")
        self.wait()

    def errors(self) -> list[str]:
        """Return what the console has reported since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the whole page."""
        height = self.run("return document.documentElement.scrollHeight")
        width = self.run("return window.innerWidth")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._send("Emulation.setDeviceMetricsOverride", **size)
        self.driver.save_screenshot(str(path))

    def hover(self, figure: str, step: float, y: float) -> str:
        """Move the pointer to a place of a figure in its units, and return the label's text."""
        place: dict[str, float] = self.run(
            """
            const plot = document.getElementById(`plot-${arguments[0]}`);
            const { xaxis, yaxis } = plot._fullLayout;
            const from = () => plot.getBoundingClientRect();
            const below = yaxis._offset + yaxis.d2p(arguments[2]);
            scrollBy({ top: from().top + below - innerHeight / 2, behavior: "instant" });
            return {
              x: from().left + xaxis._offset + xaxis.d2p(arguments[1]),
              y: from().top + below,
            };""",
            figure,
            step,
            y,
        )
        label = f'document.querySelector("#plot-{figure} .hoverlayer .hovertext")'
        for nudge in (3.0, 0.0):  # plotly compares with where the pointer was
            position = {"x": place["x"] + nudge, "y": place["y"]}
            self._send("Input.dispatchMouseEvent", type="mouseMoved", **position)
            time.sleep(0.1)
        self.wait(f"{label} !== null")
        return self.run(
            f'return [...document.querySelectorAll("#plot-{figure} .hoverlayer .hovertext")]'
            '.map((each) => each.textContent).join(" ")'
        )

    def _send(self, command: str, **arguments: Any) -> None:
        self.driver.execute_cdp_cmd(command, arguments)


@contextmanager
def open_browser() -> Generator[Page]:
    """Open a browser, and end it with all of its processes."""
    from selenium import webdriver  # noqa: PLC0415
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)  # root has no sandbox, containers little shared memory
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Page(driver)
    finally:
        driver.quit()
