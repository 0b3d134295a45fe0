"""One list of parameters: the form, the command line, prefect.yaml and the plan say the same."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import Flow
from pydantic import ValidationError
from rdkit import Chem

from flows.call import GROUPS, Call, DistillCall, ScreenCall
from flows.distill import distill
from flows.plan import ScreenPlan, make_plan, open_call
from flows.screen import screen
from mlff_core.errors import DeviceError, OutputError
from mlff_core.library.ingest import IngestReport
from mlff_core.models.checkpoint import save_checkpoint
from mlff_core.models.reference import refer_to_model
from mlff_core.tables import check_output
from mlff_core.testing import random_model

ROOT = Path(__file__).parents[2]
FLOWS = {"screen": (screen, ScreenCall), "distill": (distill, DistillCall)}


@pytest.mark.parametrize("name", FLOWS)
def test_the_form_shows_every_field_with_its_sentence_its_bounds_and_its_default(name: str) -> None:
    flow, call = FLOWS[name]
    form = flow.parameters.properties
    schema = call.model_json_schema()
    assert set(form) == set(call.model_fields)
    assert [shown["position"] for shown in form.values()] == list(range(len(form)))
    groups = []
    for field, shown in form.items():
        about, _, sentence = shown["description"].rpartition(" · ")
        assert sentence == call.model_fields[field].description
        groups.append(about)
        meant = schema["properties"][field]
        for bound in ("default", "enum", "minimum", "maximum", "exclusiveMinimum", "minLength"):
            assert shown.get(bound) == meant.get(bound), (field, bound)
        if "anyOf" in meant:
            assert shown["anyOf"] == meant["anyOf"]
    assert flow.parameters.required == schema.get("required", [])
    met = [about for about, _ in itertools.groupby(groups)]
    assert met[0] == ""  # what matters first needs no name
    assert len(met) == len(set(met)) > 1
    titles = [title.capitalize() for title in GROUPS.values()]
    assert met[1:] == [title for title in titles if title in met]


@pytest.mark.parametrize(
    "wrong",
    [
        {"colour": "red"},
        {"fmax": 0},
        {"fmax": float("nan")},
        {"device": "tpu"},
        {"shard_size": 0},
        {"conformers": "many"},
        {"overwrite": True, "resume": True},
    ],
    ids=str,
)
def test_a_call_out_of_its_bounds_is_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        ScreenCall(**wrong)


def test_a_call_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ScreenCall().limit = 3


def test_the_deployments_name_fields_of_the_calls() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    calls: dict[str, tuple[Flow, type[Call]]] = FLOWS
    assert {d["entrypoint"].rpartition(":")[2] for d in deployments} == set(calls)
    for deployment in deployments:
        _, call = calls[deployment["entrypoint"].rpartition(":")[2]]
        call(**deployment["parameters"])


def test_a_plan_goes_through_json_and_keeps_its_key(tmp_path: Path, small_model: Path) -> None:
    library = tmp_path / "library.smi"
    library.write_text("CCO a\nCCN b\nCCC c\n")
    call = ScreenCall(library=str(library), out=str(tmp_path / "out"), model=str(small_model))
    opened = open_call(call)
    read = IngestReport(3, 2, 2, "0" * 64, "file", None, None, ("a guess",))
    plan = make_plan(opened, read, shard_size=2, device="cpu")
    again = ScreenPlan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert again.run_key == plan.run_key
    assert (again.n_shards, again.records_in({0, 1}), again.records_in({1})) == (2, 3, 1)
    other = plan.model_copy(update={"library": plan.library.model_copy(update={"sha256": "1"})})
    assert other.run_key != plan.run_key
    assert plan.manifest().notes == ["a guess"]
    assert not (tmp_path / "out").exists()


def test_a_card_edited_beside_its_weights_is_another_model(tmp_path: Path) -> None:
    library, model = tmp_path / "library.smi", tmp_path / "m.safetensors"
    library.write_text("CCO a\n")
    save_checkpoint(random_model(n_features=16), model, {"headline": {"minima": "0.1 Å"}})
    card = tmp_path / "m.json"
    call = ScreenCall(library=str(library), out=str(tmp_path / "out"), model=str(model))
    read = IngestReport(1, 1, 2, "0" * 64, "file", None, None, ())

    def plan_now() -> ScreenPlan:
        return make_plan(open_call(call), read, shard_size=2, device="cpu")

    first = plan_now()
    about = json.loads(card.read_text())
    card.write_text(json.dumps(about | {"headline": {"minima": "0.2 Å"}}, indent=1))
    assert plan_now().run_key == first.run_key
    card.write_text(json.dumps(about | {"config": about["config"] | {"cutoff": 4.5}}))
    second = plan_now()
    assert second.model.sha256 == first.model.sha256
    assert second.run_key != first.run_key
    first.manifest().write(tmp_path / "out")
    with pytest.raises(OutputError, match="model config_sha256 was"):
        check_output(tmp_path / "out", second.manifest(), resume=True)


def test_who_embeds_is_of_the_run_and_a_card_needs_one(tmp_path: Path, small_model: Path) -> None:
    library = tmp_path / "library.smi"
    library.write_text("CCO a\n")
    read = IngestReport(1, 1, 2, "0" * 64, "file", None, None, ())

    def plan_of(embedder: str, device: str) -> ScreenPlan:
        call = ScreenCall(
            library=str(library), out=str(tmp_path / "out"), model=str(small_model),
            embedder=embedder,
        )  # fmt: skip
        return make_plan(open_call(call), read, shard_size=2, device=device)

    chosen = {d: plan_of("auto", d) for d in ("cpu", "cuda")}
    assert {d: plan.embedder for d, plan in chosen.items()} == {"cpu": "rdkit", "cuda": "card"}
    assert chosen["cpu"].run_key == plan_of("rdkit", "cuda").run_key != chosen["cuda"].run_key
    assert chosen["cuda"].manifest().parameters["embedder"] == "card"
    with pytest.raises(DeviceError, match="no CUDA device"):
        plan_of("card", "cpu")


def test_the_small_model_walks_before_the_default_one_and_the_run_key_says_so(
    tmp_path: Path, small_model: Path
) -> None:
    library, poses = tmp_path / "library.smi", tmp_path / "poses.sdf"
    library.write_text("CCO a\n")
    poses.write_text(Chem.MolToMolBlock(Chem.MolFromSmiles("O")) + "$$$$\n")
    read = IngestReport(1, 1, 2, "0" * 64, "file", None, None, ())

    def plan_of(**asked: Any) -> ScreenPlan:
        given = {"library": str(library), "out": str(tmp_path / "out")} | asked
        return make_plan(open_call(ScreenCall(**given)), read, shard_size=2, device="cpu")

    first, never = plan_of(), plan_of(pre_relax="none")
    assert first.pre_model is not None
    assert first.pre_model.name == "painn-aimnet2-small"
    assert first.part_metadata()["pre_relax_sha256"] == first.pre_model.sha256
    assert never.pre_model is None
    assert "pre_relax_sha256" not in never.part_metadata()
    assert first.run_key == plan_of(pre_relax="small").run_key != never.run_key
    for without in (
        {"model": "small"},
        {"model": str(small_model)},
        {"max_steps": 0},
        {"library": str(poses), "from_3d": "all"},
    ):
        assert plan_of(**without).pre_model is None
    asked_for = plan_of(model=str(small_model), pre_relax="small")
    assert asked_for.pre_model == first.pre_model
    few = refer_to_model("small")
    assert few.covers(refer_to_model("default"))
    assert not replace(few, elements=few.elements[1:]).covers(refer_to_model("default"))
    assert not replace(few, max_charge=0).covers(refer_to_model("default"))


def test_a_preset_sets_what_is_not_given() -> None:
    thorough = ScreenCall(preset="thorough")
    assert (thorough.conformers, thorough.fmax, thorough.max_steps) == (20, 0.01, 1000)
    assert thorough.model == ScreenCall().model == "default"
    assert ScreenCall(preset="thorough", conformers=1).conformers == 1
    assert ScreenCall(preset="quick").model == "small"
    assert ScreenCall(preset="standard").model_dump() == ScreenCall().model_dump()
    # As a plan is read again, and as a form hands over every default.
    assert ScreenCall.model_validate_json(thorough.model_dump_json()) == thorough
    form = ScreenCall().model_dump() | {"preset": "thorough", "fmax": 0.02}
    assert ScreenCall.of_form(form) == ScreenCall(preset="thorough", fmax=0.02)
    assert ScreenCall.of_form(ScreenCall().model_dump()) == ScreenCall()
    with pytest.raises(ValidationError, match="preset"):
        ScreenCall(preset="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ({"ph_window": 1.0}, "ph"),
        ({"solvent_seconds": 30.0}, "solvent"),
        ({"temperature_k": 310.0}, "thermo"),
        ({"pressure_pa": 1e5}, "thermo"),
    ],
)
def test_what_says_nothing_without_another_is_refused(given: dict, other: str) -> None:
    with pytest.raises(ValueError, match=f"says nothing without {other}"):
        ScreenCall(**given)
    also = {"ph": 7.4, "solvent": "water", "thermo": True}[other]
    assert ScreenCall(**given, **{other: also})
    # A form hands over every default.
    assert ScreenCall.of_form({n: f.default for n, f in ScreenCall.model_fields.items()})
