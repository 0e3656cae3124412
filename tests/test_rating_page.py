"""The page to rate in, in a real browser."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import free_port, wait_for
from test_mlflow_ui import CHROMIUM, DRIVER, browser

from rag_experiments.rating import sheet
from rag_experiments.rating.ratings import RatingFile

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
    ),
]
__all__ = ["browser"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sheet of three answers, one of which looks like HTML and one of which has no passages."""
    run = tmp_path / "secret_run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("- model=secret_model\n")
    rows = [
        {
            "id": f"secret_id_{number}",
            "question": f"Which <i>tag</i> is number {number}?",
            "prediction": f"<b>bold</b> {number}",
            "answers": ["Greek β"],
            "passages": [] if number == 2 else [f"A <script>passage</script> {number}."],
        }
        for number in range(3)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "predictions_untrained.jsonl").write_text(text)
    sheet.make([run], tmp_path / "sheet", 3, seed=1)
    return tmp_path / "sheet"


@pytest.fixture
def port(folder: Path, tmp_path: Path) -> Iterator[int]:
    number = free_port()
    command = [sys.executable, "-m", "rag_experiments.rating", "rate", str(folder)]
    command += ["--rater", "anna", "--port", str(number)]
    # NiceGUI takes a test that is running for one of its own.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    with (tmp_path / "page.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        wait_for(
            lambda: listens("127.0.0.1", number), 120, lambda: (tmp_path / "page.log").read_text()
        )
        yield number
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def test_rating_by_keyboard(folder, port, browser):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    items = sheet.read(folder)
    file = RatingFile(folder, "anna")

    def page() -> str:
        return browser.find_element("tag name", "body").text

    def shows(text: str) -> None:
        wait_for(lambda: text in page(), 60, page)

    def press(*keys: str) -> None:
        for key in keys:
            ActionChains(browser).send_keys(key).perform()

    def saved(expected: dict) -> None:
        wait_for(lambda: file.read(items) == expected, 20, lambda: str(file.read(items)))

    assert not listens("127.0.0.2", port), "the page is open to others than this machine"
    address = f"http://127.0.0.1:{port}/"
    browser.get(address)
    shows("0 of 3 rated")
    # Texts are shown as texts, never as markup.
    assert items[0].answer in page()
    assert items[0].question in page()
    assert "Greek β" in page()
    for secret in ("secret_run", "secret_model", "secret_id", "untrained", str(folder.parent)):
        assert secret not in browser.page_source

    size = browser.get_window_size()
    browser.set_window_size(420, 900)  # on a telephone every value can be reached
    wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than a telephone"
    browser.set_window_size(size["width"], size["height"])

    own = {criterion.name for criterion in items[0].criteria}
    press("4", "x", "0")
    expected: dict = {("1", "correctness"): 4, ("1", "relevance"): 0}
    saved(expected)
    press(Keys.BACKSPACE, "2")  # one step back, and another value
    expected["1", "relevance"] = 2
    saved(expected)
    press("c")
    wait_for(
        lambda: browser.switch_to.active_element.tag_name == "input", 20, lambda: "no text field"
    )
    press("1", "2", "ä")  # in a text field digits are text
    expected["1", "corrected"] = "12ä"
    saved(expected)
    press(Keys.ESCAPE)

    browser.get("about:blank")  # left half-way
    browser.get(address)
    shows(items[0].answer)
    wait_for(
        lambda: browser.find_element("css selector", "input").get_attribute("value") == "12ä",
        20,
        page,
    )
    press("5")
    expected["1", "fluency"] = 5
    saved(expected)
    if "faithfulness" in own:
        press("3")
        expected["1", "faithfulness"] = 3
    saved(expected)
    shows("1 of 3 rated")
    press("1")  # the answer is done: a further digit rates nothing
    press(Keys.ENTER)
    shows("Answer 2 of 3")
    press(Keys.ARROW_LEFT)
    shows("Answer 1 of 3")
    press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    shows("Answer 3 of 3")
    saved(expected)
    # By mouse, too; the place that had the focus does not swallow the next key.
    next(b for b in browser.find_elements("tag name", "button") if b.text == "5").click()
    expected["3", "correctness"] = 5
    saved(expected)
    press("1")
    expected["3", "relevance"] = 1
    saved(expected)
    press(Keys.ENTER)
    shows("2 still to rate")
    press(Keys.ENTER)
    shows("Answer 2 of 3")

    loaded = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    names = browser.execute_script(loaded)
    assert names
    assert all(name.startswith((address, "data:", f"ws://127.0.0.1:{port}")) for name in names)
    for item in items:
        for criterion in item.criteria:
            if (item.name, criterion.name) not in expected:
                file.add(item.name, criterion.name, 3)
    browser.refresh()
    shows("All answers are rated")
