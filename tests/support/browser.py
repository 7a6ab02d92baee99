"""Headless Chromium, as a reader's browser: pages are opened, listened to and measured in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@dataclass
class Opened:
    """A page in the browser, with everything that it said and fetched."""

    page: Any
    said: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def width(self) -> int:
        """How wide the content is, in pixels: more than the window, and a reader has to scroll sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth")


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; a test that needs it is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs a Chromium on the PATH (Debian: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install asu-lora[test])")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, address: Path | str, width: int = 1100, **settings: Any) -> Iterator[Opened]:
    """A page as a window of this width shows it; ``settings`` as playwright takes them (``color_scheme="dark"``)."""
    page = browser.new_page(viewport={"width": width, "height": 800}, **settings)
    page.set_default_timeout(10_000)
    found = Opened(page)
    page.on("console", lambda message: found.said.append(message.text))
    page.on("pageerror", lambda error: found.said.append(str(error)))
    page.on("request", lambda request: found.fetched.append(request.url))
    page.goto(address.as_uri() if isinstance(address, Path) else address)
    try:
        yield found
    finally:
        page.close()


# Contrast of every text with what is behind it, by the formula of WCAG 2.2; below 4.5 is hard to read.
FAINT = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const a = light(rgb(element instanceof SVGElement ? style.fill : style.color)), b = light(behind(element));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(walker.currentNode.data.trim() + ": " + contrast.toFixed(2));
  }
  return faint;
}"""
