"""Write docs/gpu.md from the records of `gpu_check.py` in docs/gpu/*.json."""

import argparse
import json
from pathlib import Path
from typing import Any

from gpu_checks.report import document

ROOT = Path(__file__).absolute().parents[1]
EPILOG = """\
example:
  cp build/gpu/gpu.json docs/gpu/h100.json; python tools/gpu_report.py
"""


def main() -> None:
    """Parse the command line, read every record, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--records", type=Path, default=ROOT / "docs" / "gpu", metavar="FOLDER", help="of JSON")
    add("--output", type=Path, default=ROOT / "docs" / "gpu.md", metavar="FILE")
    args = parser.parse_args()
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(args.records.glob("*.json")):
        try:
            records[path.stem] = json.loads(path.read_text())
        except ValueError as error:
            parser.error(f"{path}: expected a record of gpu_check.py, found {error}")
    args.output.write_text(document(records))
    print(f"{args.output}: {len(records)} records")


if __name__ == "__main__":
    main()
