"""What the README shows is what happens."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_python_of_the_readme_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["energy"] < -1000  # ethanol's electrons and nuclei, in eV
    assert names["forces"].shape == (9, 3)
    assert len(names["results"]) == 2
    assert abs(names["results"][0]["energy"] - names["energy"]) < 1e-4
    assert names["out"].energy.shape == (2,)
    assert [str(s) for s in names["result"].status] == ["converged", "converged"]
    assert (names["result"].max_force < 0.05).all()
    assert (names["result"].energy <= names["out"].energy).all()


def test_the_readme_links_to_files_that_are_there() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        # A SMILES may look like a link.
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
