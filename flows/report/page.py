"""The page of one run: HTML with all that it needs inside, and nothing from anywhere else.

Names, messages and SMILES are other people's data: all of them are escaped, and the page's policy
lets a browser run the two scripts that it was written with and load nothing.
"""

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from itertools import zip_longest
from typing import Any, Final

from flows.report.drawings import drawing
from flows.report.facts import Facts
from flows.report.plots import bars, histogram, over_time
from flows.stage import STAGES
from flows.text import duration, printable, rate
from mlff_core.status import Flag, MoleculeStatus, Reason
from mlff_core.tables import Manifest

#: Stages whose seconds are those of a device.
_ON_DEVICE: Final = ("relax", "embed_device")

#: Longest text of others that is shown, in characters.
_LONGEST = 400


def h(text: object) -> str:
    """Text of anyone, for a page."""
    shown = printable(str(text))
    return escape(shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…")


def asset(name: str) -> str:
    """A file that is shipped with the report."""
    return (files("flows.report") / name).read_text(encoding="utf-8")


def page_of(facts: Facts, molecules: Sequence[dict[str, Any]]) -> str:
    """The page of one run.

    Args:
        facts: What the tables tell.
        molecules: What `drawings.in_space` gave.
    """
    manifest = facts.manifest
    n_records = manifest.library.get("n_records", 0)
    body = [
        f"<h1>{h(name_of(manifest))}</h1>",
        f"<p class='faint'>{h(when(manifest))} · <code>{h(facts.where)}</code></p>",
        tiles(manifest),
        section("Reasons", _reasons(facts)),
        section("To know of molecules that are ok", _flags(facts)),
        section("Distributions", _plots(facts)),
        section("In space", _space(molecules)),
        section("Failed", cards(facts.failed)),
        section("The most steps", cards(facts.slowest)),
        section("How fast", _speed(manifest)),
        section("How good", _errors(manifest)),
        section("The call", words(call_of(manifest))),
        section("Guessed, or odd", "".join(f"<p>{h(note)}</p>" for note in manifest.notes)),
    ]
    title = f"{name_of(manifest)}: {n_records:,} records"
    return document(title, "".join(body), molecules)


def document(title: str, body: str, molecules: Sequence[dict[str, Any]] = ()) -> str:
    """A whole page around its body; the viewer is in it where there is something to view."""
    scripts = [asset("3Dmol-min.js"), asset("viewer.js")] if molecules else []
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {hashes}"
    )
    # A SMILES or a name could end the element that holds it.
    data = json.dumps(list(molecules)).replace("<", "\\u003c")
    inside = f'<script type="application/json" id="molecules">{data}</script>' if molecules else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{h(title)}</title><style>{asset('report.css')}</style></head>\n"
        f"<body>{body}{inside}"
        + "".join(f"<script>{script}</script>" for script in scripts)
        + "</body></html>\n"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def section(title: str, content: str) -> str:
    """A part of the page; none where there is nothing to say."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def name_of(manifest: Manifest) -> str:
    """What a person calls the run: the last part of its library's name."""
    return str(manifest.library.get("location", "a run")).rstrip("/").rpartition("/")[2]


def when(manifest: Manifest) -> str:
    """When it was, and whether it is whole."""
    if manifest.finished is None:
        return f"begun {manifest.started}, not finished"
    seconds = manifest.timings_s.get("total")
    return f"finished {manifest.finished}" + (f" after {duration(seconds)}" if seconds else "")


def tiles(manifest: Manifest) -> str:
    """The counts, large, and the shares as a bar."""
    counts = manifest.counts.get("status", {})
    total = sum(counts.values()) or 1
    conformers = manifest.counts.get("conformer_status", {})
    items = [(word.value, counts.get(word.value, 0), word.meaning) for word in MoleculeStatus]
    shown = [("", manifest.library.get("n_records", 0), "records", "")]
    shown += [(word, n, word, meaning) for word, n, meaning in items]
    shown += [("", sum(conformers.values()), "conformers", "")]
    shown += [("", conformers.get("converged", 0), "converged", "")]
    tiles = "".join(
        f"<div class='tile {word}' title='{escape(tip)}'><b>{n:,}</b>{text}</div>"
        for word, n, text, tip in shown
    )
    share = "".join(
        f"<div class='{word}' style='width:{100 * n / total:.2f}%' title='{n:,} {word}'></div>"
        for word, n, _ in items
        if n
    )
    return f"<div class='tiles'>{tiles}</div><div class='share'>{share}</div>"


def _reasons(facts: Facts) -> str:
    meanings = {word.value: word.meaning for word in Reason}
    rows = [
        (
            reason,
            meanings.get(reason, ""),
            n,
            "".join(
                f"<p><b>{h(e['name'])}</b> <code>{h(e['input_smiles'])}</code><br>"
                f"<small>{h(e['message'] or '')}</small></p>"
                for e in examples
            ),
        )
        for reason, (n, examples) in facts.reasons.items()
    ]
    return _words_met("reason", rows)


def _flags(facts: Facts) -> str:
    meanings = {word.value: word.meaning for word in Flag}
    rows = [
        (flag, meanings.get(flag, ""), n, f"<p>{h(', '.join(names))}</p>")
        for flag, (n, names) in facts.flags.items()
    ]
    return _words_met("flag", rows)


def _words_met(what: str, rows: Sequence[tuple[str, str, int, str]]) -> str:
    """Words of a column: each with its meaning, its number, and HTML of the first molecules."""
    if not rows:
        return ""
    head = f"<th>{what}</th><th class='n'>molecules</th><th>the first of them</th>"
    lines = "".join(
        f"<tr><td><b>{h(word)}</b><br><small>{h(meaning)}</small></td>"
        f"<td class='n'>{n:,}</td><td>{first}</td></tr>"
        for word, meaning, n, first in rows
    )
    return f"<div class='wide'><table class='met'><tr>{head}</tr>{lines}</table></div>"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; whole numbers stand to the right. Nothing where there are no rows."""
    if not rows:
        return ""
    right = [isinstance(value, int) for value in rows[0]]
    marks = [" class='n'" if r else "" for r in right]
    first = "".join(f"<th{m}>{h(name)}</th>" for name, m in zip(head, marks, strict=True))
    lines = []
    for row in rows:
        cells = zip(row, marks, strict=True)
        lines.append(
            "<tr>"
            + "".join(
                f"<td{m}>{value:,}</td>" if isinstance(value, int) else f"<td{m}>{h(value)}</td>"
                for value, m in cells
            )
            + "</tr>"
        )
    return f"<div class='wide'><table><tr>{first}</tr>{''.join(lines)}</table></div>"


def _plots(facts: Facts) -> str:
    drawn = "".join(histogram(one) for one in facts.histograms)
    return f"<div class='plots'>{drawn}</div>" if drawn else ""


def cards(molecules: Sequence[dict[str, Any]]) -> str:
    """Molecules drawn, each with its name and a line."""
    if not molecules:
        return ""
    found = []
    for molecule in molecules:
        picture = drawing(molecule["smiles"]) or "<div class='none'>not drawn</div>"
        found.append(
            f"<div class='card'>{picture}<b>{h(molecule['name'])}</b><p>{h(molecule['line'])}</p>"
            "</div>"
        )
    return f"<div class='cards'>{''.join(found)}</div>"


def _space(molecules: Sequence[dict[str, Any]]) -> str:
    if not molecules:
        return ""
    several = any(len(molecule["conformers"]) > 1 for molecule in molecules)
    what = "The lowest conformers, with their energy above the best of the molecule. " * several
    return (
        f"<p class='faint'>{what}Drag to turn, scroll to come closer.</p>"
        "<div class='space'><ul id='list'></ul><div><div id='viewer'></div>"
        "<div id='conformers'></div></div></div>"
    )


def _speed(manifest: Manifest) -> str:
    total = manifest.timings_s.get("total")
    n_records = manifest.library.get("n_records", 0)
    rows = [
        (what, seconds, f"{duration(seconds)}, {rate(n_records / seconds)} molecules/s")
        for stage, what in STAGES.items()
        if (seconds := manifest.timings_s.get(stage))
    ]
    said = []
    if total:
        for stage, what in (("relax", "the device relaxed"), ("embed_device", "it embedded")):
            if seconds := manifest.timings_s.get(stage):
                said.append(f"{what} for {seconds / total:.0%} of the time")
        if cores := manifest.timings_s.get("embed_cores"):
            said.append(f"embedding kept {cores / total:.1f} cores busy on average")
    if manifest.slowest:
        longest = ", ".join(f"{n} ({duration(seconds)})" for n, seconds in manifest.slowest)
        said.append(f"these records took longest to be prepared and embedded: {longest}")
    for ran in manifest.ran:
        said.append(f"{ran['device']}, backend {ran['backend']}, {ran['precision']}: {ran['why']}")
    told = "".join(f"<p class='faint'>{h(s)}</p>" for s in said)
    return (bars(rows) if rows else "") + told + _over_time(manifest)


def _over_time(manifest: Manifest) -> str:
    """How busy the device and the cores were; nothing of a run that was over at once."""
    line = manifest.timeline
    device = list(map(sum, zip_longest(*map(line.shares, _ON_DEVICE), fillvalue=0.0)))
    cores = [seconds / line.width_s for seconds in line.busy_s.get("embed_cores", [])]
    cores += [0.0] * (len(device) - len(cores))  # one axis of time for both
    if len(device) < 3:
        return ""
    name = "device at work" + (f", of {line.lanes}" if line.lanes > 1 else "")
    drawn = over_time(f"{name}: share of the time", device, line.width_s, 1.0)
    if cores and max(cores) > 0:
        drawn += over_time("cores that embed", cores, line.width_s, math.ceil(max(cores)))
    return f"<div class='plots'>{drawn}</div>"


def _errors(manifest: Manifest) -> str:
    stated = manifest.model.get("errors") or {}
    if not stated:
        return ""
    name = h(manifest.model.get("name", "the model"))
    return f"<p>What the card of {name} says of its errors:</p>{words(stated)}"


def words(pairs: dict[str, Any]) -> str:
    """Names and values in two columns."""
    rows = "".join(
        f"<tr><th>{h(name)}</th><td>{h(value)}</td></tr>" for name, value in pairs.items()
    )
    return f"<table class='words'>{rows}</table>" if rows else ""


def call_of(manifest: Manifest) -> dict[str, Any]:
    """The call, what it read, and with what."""
    library, model = manifest.library, manifest.model
    return {
        **{name: value for name, value in manifest.parameters.items() if value is not None},
        "library, sha256": library.get("sha256"),
        "columns": f"{library.get('smiles_column') or '-'} (SMILES), "
        f"{library.get('id_column') or '-'} (id)",
        "model, sha256": model.get("sha256"),
        "versions": ", ".join(f"{name} {found}" for name, found in manifest.versions.items()),
        "run": manifest.run_id,
        "schema": manifest.schema_version,
    }
