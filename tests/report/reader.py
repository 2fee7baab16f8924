"""A reader of the report: headless Chromium with one page open, and what a hand does there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By

PATIENCE = 300.0
"""Seconds after which a condition is taken for one that never comes true; no busy machine is so slow."""


def wait_for(condition: Callable[[], Any], words: str) -> None:
    """Wait until ``condition`` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never came true: {words}"
        time.sleep(0.02)


class Reader:
    """A browser with one report open."""

    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome

    def open(self, path: Path, *, dark: bool = False) -> Reader:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        self.chrome.get(path.as_uri())
        self.until("return document.documentElement.dataset.ready === 'yes'")
        return self

    def run(self, script: str, *arguments: Any) -> Any:
        return self.chrome.execute_script(script, *arguments)

    def until(self, script: str) -> None:
        wait_for(lambda: self.run(script), script)

    def find(self, selector: str) -> Any:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def hover(self, panel: int, x: int, y: float) -> None:
        """Move the mouse to a point of a panel, given in the coordinates of its data."""
        self.run("document.getElementById('canvas').scrollIntoView({block: 'start', behavior: 'instant'})")
        key = str(panel + 1) if panel else ""
        left, top = self.run(
            "const [key, x, y] = arguments, at = document.getElementById('canvas'), box = at.getBoundingClientRect();"
            "const across = at._fullLayout['xaxis' + key], up = at._fullLayout['yaxis' + key];"
            "return [box.left + across._offset + across.d2p(x), box.top + up._offset + up.d2p(y)]",
            key,
            x,
            y,
        )
        mouse = ActionChains(self.chrome, duration=20)
        mouse.w3c_actions.pointer_action.move_to_location(int(left) - 3, int(top) - 3)
        mouse.w3c_actions.pointer_action.move_to_location(round(left), round(top))
        mouse.perform()

    def tip(self) -> dict[str, str]:
        """What the tooltip says: its name, its line below, and every term with its value."""
        self.until("return !document.getElementById('tip').hidden")
        found = self.run(
            "return [...document.querySelectorAll('#tip dl div')]"
            ".map((one) => [...one.children].map((part) => part.textContent))"
        )
        return {"name": self.text("#tip strong"), "line": self.text("#tip header span"), **dict(found)}

    def pick(self, selector: str) -> None:
        """Click on something that may be covered by its own label."""
        self.run("document.querySelector(arguments[0]).click()", selector)

    def choose(self, selector: str, value: str) -> None:
        self.run(
            "const one = document.querySelector(arguments[0]); one.value = arguments[1];"
            "one.dispatchEvent(new Event('change', {bubbles: true}))",
            selector,
            value,
        )

    def marks(self, panel: int, kind: str = "values") -> list[tuple[int, float]]:
        """The ``values``, ``zeros`` or ``nonfinite`` marks of a panel, as plotly holds them: row of the frame and y."""
        symbol = {"zeros": "triangle-down-open", "nonfinite": "x"}.get(kind)
        found = self.run(
            "const [panel, symbol] = arguments;"
            "return document.getElementById('canvas').data"
            ".filter((one) => one.meta === panel && one.mode === 'markers')"
            ".filter(({marker}) => symbol ? marker.symbol === symbol : Array.isArray(marker.symbol))"
            ".flatMap((one) => [...one.y].map((y, i) => [one.customdata[i], y]))",
            panel,
            symbol,
        )
        return [(int(row), float(y)) for row, y in found]

    def shown(self) -> list[int]:
        """Rows of the frame that are in the page's table now."""
        return [
            int(row)
            for row in self.run(
                "return [...document.querySelectorAll('#grid tr[data-row]')].map((one) => one.dataset.row)"
            )
        ]
