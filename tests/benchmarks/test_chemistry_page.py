"""The tables of docs/chemistry.md are those that its script makes of the results."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks/chemistry"))

import page  # noqa: E402


def test_every_table_of_the_page_is_made_of_the_results_as_they_are() -> None:
    text = (ROOT / "docs/chemistry.md").read_text()
    assert page.rendered(text) == text, "python benchmarks/chemistry/page.py makes them anew"
    assert text.count("<!-- end -->") == len(page.TABLES)


def test_numbers_of_the_page_follow_the_results(tmp_path: Path, monkeypatch) -> None:
    for file in page.RESULTS.glob("*"):
        if file.suffix in (".json", ".md"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    results = json.loads((tmp_path / "protonation.json").read_text())
    results["mlff-screen"]["measured"]["right"] = 300
    (tmp_path / "protonation.json").write_text(json.dumps(results))
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert "300 (82 %)" in page.protonation()
