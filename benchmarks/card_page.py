"""A bundle's model card as a picture, the way a Markdown page shows it.

python -m benchmarks.card_page runs/solar/bundle docs/img/card.png
"""

from __future__ import annotations

import argparse
import base64
import re
from pathlib import Path

from markdown_it import MarkdownIt
from PIL import Image

from app.screenshot import browser
from jepack import bundle as bundles

WIDTH = 900  # px
STYLE = """
html { overflow: hidden }
body { margin: 0 auto; padding: 24px 40px; max-width: 820px; background: #fff; color: #1f2328;
  font: 15px/1.5 -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif }
h1 { font-size: 28px; border-bottom: 1px solid #d1d9e0; padding-bottom: 6px }
h2 { font-size: 21px; border-bottom: 1px solid #d1d9e0; padding-bottom: 4px; margin-top: 26px }
h3 { font-size: 16px } img { max-width: 100% }
table { border-collapse: collapse; font-size: 13px; margin: 12px 0 }
th, td { border: 1px solid #d1d9e0; padding: 4px 9px } tr:nth-child(even) { background: #f6f8fa }
code { background: #eff1f3; padding: 1px 4px; border-radius: 4px; font-size: 12.5px }
pre { background: #f6f8fa; padding: 12px; border-radius: 6px; overflow: hidden }
pre code { background: none; padding: 0 }
"""


def page_of(folder: Path) -> str:
    """The card as HTML, pictures of the bundle inside; the front matter, which the Hub reads, left out."""
    text = (folder / "README.md").read_text()
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)

    def inline(found: re.Match[str]) -> str:
        data = base64.b64encode((folder / found.group(1)).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    html = re.sub(r'src="([\w./-]+\.png)"', inline, html)
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{html}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    bundle = bundles.load(options.bundle)
    with browser(width=WIDTH, height=900) as driver:
        address = base64.b64encode(page_of(bundle.folder).encode()).decode()
        driver.get(f"data:text/html;base64,{address}")
        height = driver.execute_script("return document.documentElement.scrollHeight")
        view = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
        driver.save_screenshot(str(options.picture))
    with Image.open(options.picture) as image:  # a quarter of the bytes, same look
        small = image.convert("RGB").quantize(128, method=Image.Quantize.MEDIANCUT)
    small.save(options.picture, optimize=True)
    print(f"{options.picture}: {small.size[0]} x {small.size[1]} px")


if __name__ == "__main__":
    main()
