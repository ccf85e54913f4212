"""What every benchmark shares: several runs in turn, a table with ratios and spread, and a JSON file.

report("flow_start", "seconds", {"plain": [1.9, 2.0], "server": [3.1, 3.0]}, base="plain")
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pawprint.evaluation.summary import machine

RESULTS = Path(__file__).parent / "results"  # not in git: what the docs quote, the docs' own command writes


def report(name: str, unit: str, measured: Mapping[str, Sequence[float]], base: str) -> None:
    """Print median, range and ratio to `base` of each variant, and write results/<name>.json."""
    reference = statistics.median(measured[base])
    table = Table(title=f"{name} ({unit}); {machine()}", title_justify="left")
    for column in ("variant", "n", "median", "range", f"ratio to {base}"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    rows = []
    for variant, values in measured.items():
        median = statistics.median(values)
        rows.append({"variant": variant, "values": list(values), "median": median, "ratio": median / reference})
        spread = f"{min(values):.3g} - {max(values):.3g}"
        table.add_row(variant, str(len(values)), f"{median:.3g}", spread, f"{median / reference:.2f}")
    Console(width=120).print(table)
    RESULTS.mkdir(exist_ok=True)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"benchmark": name, "unit": unit, "machine": machine(), "when": when, "base": base, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
