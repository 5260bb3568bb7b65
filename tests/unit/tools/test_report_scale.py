"""The tables of docs/scale.md are those that the code predicts."""

import report_scale


def test_the_page_has_the_tables_of_this_code() -> None:
    page = report_scale.PAGE.read_text()
    assert report_scale.with_tables(page) == page, "make scale-report writes them anew"
