"""The report in a real browser, without a network: all of it is shown, and none of it cut."""

from __future__ import annotations

import shutil

import pytest
from test_mlflow_ui import CHROMIUM, DRIVER, browser  # noqa: F401
from test_report import composer, swept, write_run  # noqa: F401

from rag_experiments.report import runs, writing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
    ),
]

OUTSIDE = """
const found = [];
for (const svg of document.querySelectorAll('svg')) {
  const frame = svg.getBoundingClientRect();
  for (const text of svg.querySelectorAll('text')) {
    const box = text.getBoundingClientRect();
    if (box.left < frame.left - 1 || box.right > frame.right + 1 ||
        box.top < frame.top - 1 || box.bottom > frame.bottom + 1) found.push(text.textContent);
  }
}
return found;
"""

LOADED = "return performance.getEntriesByType('resource').map(entry => entry.name)"


def test_the_page_in_a_browser(swept, browser, tmp_path):  # noqa: F811
    found = runs.find([str(swept)])
    writing.write(found, swept)
    alone = tmp_path / "alone.html"  # sent to a colleague, without the files beside it
    shutil.move(swept / "report.html", alone)
    browser.get(alone.as_uri())
    body = browser.find_element("tag name", "body")
    for shown in ("Best: ", "What to try next", "python -m rag_experiments", "<script>alert(1)"):
        assert shown in body.text, shown
    assert browser.execute_script(LOADED) == []
    assert browser.execute_script(OUTSIDE) == []
    wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than the window"
    assert len(browser.find_elements("css selector", "figure svg")) == 5

    # The answers to read are folded but for the first pair, and open with a click.
    folded = browser.find_elements("css selector", "#questions ~ details:not([open])")[0]
    hidden = folded.find_element("tag name", "table")
    assert not hidden.is_displayed()
    folded.find_element("tag name", "summary").click()
    assert hidden.is_displayed()

    # On a telephone tables scroll within the page, not the page itself.
    browser.set_window_size(420, 900)
    wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than a telephone"
    # Figures, too, so that what is written in them stays large enough to read.
    heights = "return [...document.querySelectorAll('svg text')].map(" + (
        "text => text.getBoundingClientRect().height)"
    )
    assert min(browser.execute_script(heights)) > 8
