"""Write the tables and figures of docs/evidence.md from the results of runs."""

from pathlib import Path

from megadga.console import run_program, tool_parser
from megadga.errors import MegadgaError
from trials.evidence_figure import draw, draw_bargain
from trials.evidence_report import read_evidence, rebuilt

REPOSITORY = Path(__file__).absolute().parents[1]
RECORDS = REPOSITORY / "docs" / "evidence"
PAGES = (REPOSITORY / "docs" / "evidence.md", REPOSITORY / "README.md")
FIGURE = REPOSITORY / "docs" / "evidence.svg"
BARGAIN = REPOSITORY / "docs" / "evidence-bargain.svg"
EPILOG = """\
example:
  make evidence CORPUS=text
  cp build/evidence/*.json docs/evidence/; python tools/report_evidence.py

A table goes between the lines <!-- evidence: NAME --> and <!-- end of evidence -->; what else the
pages say is not touched.
"""


def main() -> None:
    """Parse the command line, read the results, write the pages and the figure."""
    parser = tool_parser(__doc__, EPILOG)
    parser.parse_args()
    try:
        evidence = read_evidence(RECORDS)
        for page in PAGES:
            page.write_text(rebuilt(page.read_text(), evidence, name=page.name))
            print(page)
    except MegadgaError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    draw(evidence.targets, FIGURE)
    draw_bargain(evidence.targets, BARGAIN)
    print(f"{FIGURE}\n{BARGAIN}")


if __name__ == "__main__":
    run_program(main)
