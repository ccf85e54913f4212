"""report.json as a page that a person looks at: what was left out, with thumbnails. One file, nothing fetched."""

import base64
import html
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2

from pawprint import image

SHOWN = 300  # thumbnails; the rest is listed in report.json
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ccc}
figure{display:inline-block;width:10rem;margin:.5rem;vertical-align:top;overflow-wrap:anywhere;font-size:13px}
img{width:96px;height:96px;background:#ddd}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}}"""


def report(told: Mapping[str, Any], data: Path) -> str:
    """The page, as HTML; `data` is where the quarantined files lie."""
    splits = "".join(
        f"<tr><th scope=row>{split}</th>{''.join(f'<td>{count:,}</td>' for count in counts.values())}</tr>"
        for split, counts in told["splits"].items()
    )
    classes = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in told["classes"])
    reasons = Counter(one["reason"] for one in told["bad"])
    flags = ", ".join(f"{count:,} {flag}" for flag, count in told["flags"].items()) or "none"
    sections = "".join(
        f"<h2>{html.escape(reason)} ({count:,})</h2>"
        + "".join(_figure(one, data) for one in told["bad"][:SHOWN] if one["reason"] == reason)
        for reason, count in reasons.most_common()
    )
    more = len(told["bad"]) - SHOWN
    name = html.escape(told["dataset"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Photographs of {name}</title><style>{STYLE}</style>"
        f"<h1>Photographs of {name}</h1><p>{told['photographs']:,} used, {len(told['bad']):,} left out. "
        f"Converted: {flags}.</p><table><tr><td></td>{classes}</tr>{splits}</table>{sections}"
        + (f"<p>{more:,} more are listed in report.json.</p>" if more > 0 else "")
        + "</html>\n"
    )


def _figure(one: Mapping[str, str], data: Path) -> str:
    try:
        pixels = image.resize(image.decode((data / one["path"]).read_bytes()), "letterbox")
        jpeg = image.encode(cv2.resize(pixels, (96, 96), interpolation=cv2.INTER_AREA), 80)
        picture = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
    except image.BadImage:
        picture = '<img alt="no picture">'
    text = f"<b>{html.escape(one['path'])}</b><br>{html.escape(one['message'])}"
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"
