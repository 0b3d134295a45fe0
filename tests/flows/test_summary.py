"""What a run says at its end, in the terminal and on Prefect's page."""

import io
from pathlib import Path

from rich.console import Console

from flows.summary import markdown_summary, print_summary
from mlff_core.tables import Manifest


def manifest(**errors: str) -> Manifest:
    return Manifest(
        run_id="1",
        run_key="2",
        parameters={},
        library={"location": "x.smi", "sha256": "3", "n_records": 7},
        model={"name": "[red]tiny", "sha256": "4", "errors": errors},
        versions={},
        started="now",
        counts={"status": {"ok": 7}, "reason": {"empty": 0}, "conformer_status": {}},
        timings_s={"total": 2.0},
    )


def printed(one: Manifest) -> str:
    text = io.StringIO()
    print_summary(one, Path("out"), Console(file=text, width=120))
    return text.getvalue()


def test_the_models_errors_stand_beside_the_counts_as_plain_text() -> None:
    one = manifest(minima="0.1 Å | [bold]`x`\n<b>", speed="great")
    assert "[red]tiny against its teacher" in printed(one)
    assert "0.1 Å / [bold]'x' <b>" in printed(one)
    assert "| minima | `0.1 Å / [bold]'x' <b>` |" in markdown_summary(one, Path("out"))
    assert "great" not in printed(one) + markdown_summary(one, Path("out"))
    assert "3.5" in printed(one)


def test_a_model_whose_card_says_nothing_gets_no_table_of_errors() -> None:
    assert "teacher" not in printed(manifest()) + markdown_summary(manifest(), Path("out"))
