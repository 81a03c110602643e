"""Pictures of the committed results' pages, for the documentation: `python tests/browser/screenshots.py FOLDER`."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

RPH = Path(sys.executable).with_name("rph")
RESULTS = Path(__file__).parents[2] / "leaderboard" / "results"
SHOTS = {  # name: page, theme, width and height
    "report": ("report.html", "light", 1280, 1000),
    "leaderboard-overall": ("site/index.html", "light", 1280, 1000),
    "leaderboard-board": ("site/benchmarks/routerdc7.html", "light", 1280, 1000),
    "leaderboard-board-dark": ("site/benchmarks/routerdc7.html", "dark", 1280, 1000),
    "leaderboard-board-phone": ("site/benchmarks/routerdc7.html", "light", 380, 800),
    "leaderboard-router": ("site/routers/knn.html", "light", 1280, 1000),
}


def main(folder: Path) -> None:
    browser_path = shutil.which("chromium") or sys.exit("no chromium is installed: see .ci/browser")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        pages = Path(temporary)
        for command, out in ((["leaderboard", "build"], "site"), (["report"], "report.html")):
            subprocess.run([RPH, *command, RESULTS, "-o", pages / out], check=True, stdout=subprocess.DEVNULL)
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--headless=new", "--no-sandbox"]
        )
        for name, (page_path, theme, width, height) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            page.goto(f"{pages.as_uri()}/{page_path}")
            page.wait_for_load_state("networkidle")
            picture = folder / f"{name}.png"
            page.screenshot(path=picture)
            shrink(picture)
            print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")
        browser.close()


def shrink(picture: Path) -> None:
    """Flat colours need no more than a palette."""
    with Image.open(picture) as image:
        image.convert("RGB").quantize(128).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
