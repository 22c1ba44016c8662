"""The pictures of docs/demo.md, taken from a running demo with Debian's Chromium.

    python docs/screenshots.py http://127.0.0.1:8080 --classification MODEL:VERSION IMAGE \
        --detection MODEL:VERSION IMAGE
"""

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--classification", nargs=2, required=True)
    parser.add_argument("--detection", nargs=2, required=True)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    arguments = parser.parse_args()
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        for task, width in (("classification", 390), ("detection", 1000)):
            model, image = getattr(arguments, task)
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.set_default_timeout(120_000)
            page.goto(arguments.address)
            page.select_option("#first", model)
            if task == "detection":
                page.select_option("#second", model)
            page.set_input_files("#file", image)
            page.locator("#status", has_text="Answered.").wait_for()
            if task == "classification":
                page.click("#heat")
                page.locator("#status", has_text="Heat map").wait_for()
            page.screenshot(path=IMAGES / f"demo-{task}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
