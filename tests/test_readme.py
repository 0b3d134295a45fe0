"""What the README shows is what happens."""

import re
import shlex
from pathlib import Path

from flows.call import DistillCall, ScreenCall
from flows.cli import checked, parser
from flows.strain import StrainCall

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CALLS = {"run": ScreenCall, "strain": StrainCall, "distill": DistillCall}


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


def test_commands_on_the_pages_are_ones_that_are_taken() -> None:
    seen = set()
    for page in [*PAGES, ROOT / "benchmarks/README.md", ROOT / "datasets/README.md"]:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(
            r"\bmlff-screen +((?:run|strain|export|report|status|distill|info)\b[^`\n|;&#…]*)", text
        ):
            words = [word for word in shlex.split(line.strip()) if word not in ("...", "--")]
            if "--help" in words or (len(words) == 1 and words[0] != "info"):
                continue  # a command's name alone, or its help
            arguments = vars(parser().parse_args(words))  # or leaves with status 2
            seen.add(command := arguments.pop("command"))
            if command in CALLS:
                for name in ("quiet", "json", "verbose"):
                    arguments.pop(name)
                checked(arguments | {"out": arguments["out"] or "out"}, CALLS[command])
    assert seen >= {"run", "strain", "export", "report", "status", "distill"}


def test_the_readme_links_to_files_that_are_there() -> None:
    for page in PAGES:
        # A SMILES may look like a link.
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
