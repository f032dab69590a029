"""Takes the README's pictures of the pages: a made-up history, `cm serve`, and Chromium.

python scripts/screenshots.py     writes docs/*.png; wants the dev group and Debian's chromium
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
DEAREST = "#sessions tbody a"
# File, width and height, scheme, and what is clicked first.
SHOTS: tuple[tuple[str, tuple[int, int], Literal["light", "dark"], str], ...] = (
    ("page-1600.png", (1600, 1130), "light", ""),
    ("page-380.png", (380, 1130), "dark", ""),
    ("session-1600.png", (1600, 1130), "light", DEAREST),
)


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        demo = Path(folder) / "demo"
        environment = {**os.environ, "HOME": folder, "CM_LOG": f"{folder}/cm.log", "PYTHONPATH": str(ROOT)}
        cm = [sys.executable, "-m", "indexer"]
        subprocess.run([*cm, "demo", str(demo)], env=environment, check=True, stdout=subprocess.DEVNULL)
        serve = [*cm, "serve", "--port", "0", "--root", str(demo), "--db", str(demo / "cm.db")]
        with subprocess.Popen(serve, env=environment, stdout=subprocess.PIPE, text=True) as server:
            try:
                take_all(server.stdout.readline().strip() if server.stdout else "")
            finally:
                server.terminate()


def take_all(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for name, (width, height), scheme, link in SHOTS:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            take(context.new_page(), url, link, DOCS / name)
            context.close()
        browser.close()


def take(page: Page, url: str, link: str, file: Path) -> None:
    page.goto(url)
    page.wait_for_selector("svg.plot")
    if link:
        page.locator(link).first.click()
        page.wait_for_selector("#timeline svg.plot")
    page.screenshot(path=file)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__":
    main()
