"""Draw docs/page.png: the page with strontium titanate, in Debian's chromium driven by Playwright.

crystalformers serve --port 8123 & python docs/make_page_picture.py http://127.0.0.1:8123
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_name("page.png")
SHOWN = ("NaCl", "MoS2", "SrTiO3")
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
"""A drawing of three dimensions in software."""


def main() -> None:
    """Add the examples, choose the titanium atom, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of a running service")
    given = parser.parse_args()
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(given.address)
        page.wait_for_selector("body[data-ready]")
        for name in SHOWN:
            page.get_by_role("button", name=name, exact=True).click()
            page.wait_for_selector(f"#title:has-text('{name}')")
            page.wait_for_selector("#images tbody tr")
        page.select_option("#atom", "1")
        page.wait_for_selector("#attention-note:has-text('Atom 2 (Ti)')")
        page.wait_for_timeout(8000)  # until the message has gone
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
