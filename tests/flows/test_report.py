"""The report: its numbers are those of the tables, and a name is never more than a name."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flows.cli import main
from flows.report.drawings import drawing
from flows.report.facts import gather
from flows.report.plots import bin_width
from flows.report.write import leave_report, report
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.status import ConformerStatus, Flag, MoleculeStatus, Reason
from mlff_core.store import open_store
from mlff_core.tables import Tables, read, read_manifest
from mlff_core.tables.testing import conformer, manifest, molecule, write_tables
from mlff_core.units import EV_KCAL_MOL

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>|`\"'"


def make_run(out: Path, *, lower_by: float = 0.0) -> Path:
    """Two molecules with two conformers each, one rejected and one that failed."""
    rows, conformers = [], []
    given = (("C[C@H](N)C(=O)O", "alanine"), ("CC[NH3+]", EVIL))
    for record, (smiles, name) in enumerate(given):
        m = prepare(record, name, smiles, ChemistrySettings())
        m.n_conformers, m.n_converged, m.best_conformer = 2, 2, 1
        m.min_energy_ev = -10.0 - lower_by * record
        x = m.conformers()[0]
        conformers += [
            conformer(
                record, c, atomic_numbers=m.numbers, positions_angstrom=x,
                forces_ev_per_angstrom=x, n_steps=10 * record + c, energy_ev=-9.0 - c,
                relative_energy_kcal_mol=1.5 * (1 - c),
            )
            for c in range(2)
        ]  # fmt: skip
        rows.append(m)
    rows[1].flags.append(Flag.PROTONS_HELD)
    for record, status, reason in (
        (2, MoleculeStatus.REJECTED, Reason.INVALID_SMILES),
        (3, MoleculeStatus.FAILED, Reason.ALL_CONFORMERS_FAILED),
    ):
        rows.append(
            molecule(record, record - 2, n_converged=0, status=status, reason=reason, message=EVIL,
                     input_smiles=EVIL, smiles=None)
        )  # fmt: skip
    conformers.append(conformer(3, status=ConformerStatus.EXPLODED, n_steps=7))
    write_tables(out, 0, rows, conformers)
    counts = {
        "status": {"ok": 2, "rejected": 1, "failed": 1},
        "reason": {"invalid_smiles": 1, "all_conformers_failed": 1},
        "conformer_status": {"converged": 4, "exploded": 1},
    }
    manifest(
        counts=counts, finished="2026-01-01T00:01:40+00:00",
        timings_s={"relax": 50.0, "total": 100.0}, slowest=[(3, 2.91)],
        library={"location": f"/data/{EVIL}.smi", "sha256": "aa", "n_records": 4},
        model={"name": EVIL, "sha256": "bb", "errors": {"minima": EVIL}}, notes=[EVIL],
    ).write(out)  # fmt: skip
    return out


class Tags(HTMLParser):
    """Every element of a page with its attributes, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def test_the_facts_are_those_of_the_tables(tmp_path: Path) -> None:
    facts = gather(read(make_run(tmp_path / "run")))
    assert {reason: n for reason, (n, _) in facts.reasons.items()} == {
        "all_conformers_failed": 1,
        "invalid_smiles": 1,
    }
    assert facts.reasons["invalid_smiles"][1][0]["name"] == "m2"
    assert facts.flags == {"protons_held": (1, [EVIL])}
    by_title = {one.title: one for one in facts.histograms}
    steps = by_title["steps of the relaxation"]
    assert [steps.low + k * steps.width for k, n in enumerate(steps.counts) if n] == [
        0,
        1,
        7,
        10,
        11,
    ]
    assert sum(by_title["energy above the molecule's best"].counts) == 4
    assert by_title["total charge"].whole
    assert [m["name"] for m in facts.slowest] == [EVIL, "m3", "alanine"]
    assert [m["name"] for m in facts.failed] == ["m3"]
    assert facts.best == [(0, 0), (1, 0)]


def test_the_facts_are_the_same_whatever_fits_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(3):  # the last shard has the most steps, the second no conformers
        rows = [molecule(10 * shard + k, n_converged=shard, n_atoms=20 + k) for k in range(6)]
        conformers = [conformer(row.record, n_steps=shard * row.record) for row in rows]
        write_tables(tmp_path, shard, rows, conformers if shard != 1 else [])
    manifest().write(tmp_path)
    whole = gather(read(tmp_path))
    assert [row["line"] for row in whole.slowest[:2]] == [
        "50 steps, 1 conformer",
        "48 steps, 1 conformer",
    ]
    monkeypatch.setattr(Tables.pieces, "__defaults__", (1,))
    assert len(list(read(tmp_path).pieces())) == 3
    assert gather(read(tmp_path)) == whole


def test_a_plot_that_would_say_nothing_is_left_out(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run")
    m = prepare(0, "methane", "C", ChemistrySettings())
    m.n_conformers, m.n_converged, m.best_conformer, m.min_energy_ev = 1, 1, 0, -2.0
    one = conformer(
        0, 0, atomic_numbers=m.numbers, positions_angstrom=m.conformers()[0],
        forces_ev_per_angstrom=m.conformers()[0], energy_ev=-2.0, initial_energy_ev=-1.5,
        relative_energy_kcal_mol=0.0,
    )  # fmt: skip
    shutil.rmtree(out / "molecules")
    shutil.rmtree(out / "conformers")
    write_tables(out, 0, [m], [one])
    by_title = {h.title: h for h in gather(read(out)).histograms}
    assert "energy above the molecule's best" not in by_title
    released = by_title["energy that relaxing released, an atom"]
    # Half an eV among five atoms.
    assert released.low <= 0.5 * EV_KCAL_MOL / 5 <= released.low + released.width
    assert sum(released.counts) == 1


def test_the_page_shows_how_busy_the_device_was_over_time(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run")
    assert "share of the time</figcaption>" not in report(out)
    one = read_manifest(out)
    assert one is not None
    for begin, end in ((1.0, 2.0), (3.0, 3.5)):
        one.timeline.add("relax", begin, end, end - begin)
    one.timeline.add("embed_cores", 0.0, 2.0, 3.0)
    one.write(out)
    page = report(out)
    (drawn,) = re.findall(r"aria-label=\"device at work: share of the time\">(.*?)</svg>", page)
    assert [float(x) for x in re.findall(r" s: ([\d.]+)</title>", drawn)] == [0, 1, 0, 0.5]
    (drawn,) = re.findall(r"aria-label=\"cores that embed\">(.*?)</svg>", page)
    assert [float(x) for x in re.findall(r" s: ([\d.]+)</title>", drawn)] == [1.5, 1.5, 0, 0]


def test_a_page_runs_its_own_scripts_and_loads_nothing(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run"))
    tags = Tags(page)
    assert {tag for tag, _ in tags.found} & {"img", "link", "iframe", "object"} == set()
    for _, attributes in tags.found:
        assert not any(name.startswith("on") for name in attributes)
        assert {"src", "href", "srcdoc"} & attributes.keys() == set()
    data, viewer, own = tags.scripts
    (policy,) = [a["content"] for _, a in tags.found if a.get("http-equiv")]
    hashes = re.findall(r"sha256-([^']+)", policy or "")
    assert hashes == [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in (viewer, own)
    ]
    assert (policy or "").startswith("default-src 'none';")
    assert "unsafe-inline" not in (policy or "").partition("script-src")[2]
    molecules = json.loads(data)
    assert [m["name"] for m in molecules] == ["alanine", EVIL]
    assert [c["energy"] for c in molecules[0]["conformers"]] == [0.0, 1.5]
    assert "V2000" in molecules[1]["conformers"][0]["block"]


def test_the_page_says_what_came_out(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run"))
    for expected in (
        "<b>2</b>ok",
        "<b>1</b>failed",
        "not a SMILES",
        "50% of the time",
        "protons_held",
        "took longest to be prepared and embedded: 3 (2.9 s)",
    ):
        assert expected in page


def test_a_folder_without_a_manifest_is_refused_and_a_run_is_not_lost(tmp_path: Path) -> None:
    out = make_run(tmp_path / "run")
    assert leave_report(open_store(out))
    assert (out / "report.html").read_text() == report(out)
    (out / "manifest.json").unlink()
    assert not leave_report(open_store(out))


def test_two_runs_are_compared_molecule_by_molecule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", lower_by=0.1)
    assert main(["report", str(first), str(second), "--to", str(tmp_path / "both.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'both.html'}\n"
    page = (tmp_path / "both.html").read_text()
    assert "Of 2 molecules, B is lower by more than 0.05 kcal/mol in 1 and higher in 0" in page
    assert "the library is the same; 4 are in both" in page
    assert "mean -1.153, median -1.153" in page  # half of 0.1 eV: the other is as it was
    assert "<script>" not in page


def test_what_holds_no_tables_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith("holds no tables of a run\n")


def test_molecules_are_drawn_even_where_they_cannot_exist() -> None:
    assert "<svg" in (drawing("CCO") or "")
    assert "<svg" in (drawing("C(C)(C)(C)(C)C") or "")
    for smiles in ("", None, EVIL, "C" * 500):
        assert drawing(smiles) is None


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0, 0, True, 1),
        (0, 10, True, 1),
        (0, 100, True, 5),
        (0, 1, False, 0.05),
        (-5, 7, False, 0.5),
    ],
)
def test_bins_have_round_widths(low: float, high: float, whole: bool, expected: float) -> None:
    assert bin_width(low, high, whole=whole) == pytest.approx(expected)


def test_a_host_that_cannot_draw_has_a_page_all_the_same(tmp_path: Path, monkeypatch) -> None:
    # As on a server without libXrender, where RDKit's drawing cannot be imported.
    monkeypatch.setattr("flows.report.drawings.rdMolDraw2D", None)
    assert drawing("CCO") is None
    assert "not drawn" in report(make_run(tmp_path / "out"))
