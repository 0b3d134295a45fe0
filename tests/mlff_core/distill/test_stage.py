"""When a stage makes labels, of which molecules, and how."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mlff_core.distill import stage as stage_module
from mlff_core.distill.embedding import Embedded, embed
from mlff_core.distill.kinds import BOTH_SIGNS, KindConfig
from mlff_core.distill.labelling import Buckets, LabelConfig, fill, pad
from mlff_core.distill.lines import Lines
from mlff_core.distill.pool import LabelPool
from mlff_core.distill.ranks import Ranks
from mlff_core.distill.sampling import KINDS, SamplingConfig
from mlff_core.distill.stage import Stage, StageConfig
from mlff_core.distill.training_config import TrainingConfig
from mlff_core.models.checkpoint import save_checkpoint
from mlff_core.models.painn import PaiNNConfig
from mlff_core.testing import SpringTeacher, random_model

SHAPE = PaiNNConfig(n_features=8, n_interactions=1)
STAGE = StageConfig(capacity=64, first_molecules=64, seed=4)
LABELS = LabelConfig(atoms_a_call=192, max_force=1e3, max_force_spread=1e3, min_contact=0.0)
SAMPLING = SamplingConfig(relax_steps=2, max_relax_steps=3, hot_steps=2, turned=0.0)
#: Two of each kind, and the kind of each.
ROWS = [
    *((text, "fragment") for text in ("CCC(=O)CC", "CCSCC")),
    *((text, "") for text in ("CCCCC", "CCOCC", "[NH3+]CCC(=O)[O-]", "C[N+](C)(C)CC(=O)[O-]")),
    *((text, "cation") for text in ("CCC[NH3+]", "CC[NH2+]CC")),
]


class AtHand:
    """In place of an embedder: molecules that come a few at a time."""

    def __init__(self, molecules: list[Embedded], *, at_once: int = 3):
        self.left, self.at_once = list(molecules), at_once
        self.failed, self.n_embedded = Counter(), len(molecules)

    @property
    def running(self) -> bool:
        return bool(self.left)

    def take(self, wait_s: float = 0.0) -> list[Embedded]:
        taken, self.left = self.left[: self.at_once], self.left[self.at_once :]
        return taken


@pytest.fixture(scope="module")
def molecules() -> list[Embedded]:
    return [embed(text, k, 2, 1, 10) for k, (text, _) in enumerate(ROWS)]


def stage_of(
    molecules: list[Embedded],
    kinds: tuple[KindConfig, ...] = (),
    teacher: SpringTeacher | None = None,
    **changes: object,
) -> Stage:
    stage = replace(STAGE, **changes)
    lines = Lines(
        kinds, [kind for _, kind in ROWS], driver=stage.driver, sampling=SAMPLING, labels=LABELS,
        n_conformers=2,
    )  # fmt: skip
    return Stage(
        AtHand(molecules), teacher or SpringTeacher(), SHAPE, stage, lines, LABELS,
        TrainingConfig(n_mols=4, warmup_steps=2), Ranks(),
    )  # fmt: skip


@pytest.fixture
def calls(monkeypatch) -> list[SimpleNamespace]:
    """What each call of `fill` was asked for: which molecules, what drives, and how."""
    found = []

    def noted(pool, teacher, driver, padded, sampling, *others):
        found.append(SimpleNamespace(indices=padded.index.tolist(), driver=driver, how=sampling))
        return fill(pool, teacher, driver, padded, sampling, *others)

    monkeypatch.setattr(stage_module, "fill", noted)
    return found


def asked_of(calls: list[SimpleNamespace], index: int) -> SimpleNamespace:
    """The one call that had a molecule."""
    (call,) = (call for call in calls if index in call.indices)
    return call


@pytest.mark.parametrize(
    ("labels_s", "training_s", "steps", "labels", "due"),
    [
        pytest.param(1.0, 3.0, 9, 40, True, id="less than their share of the time"),
        pytest.param(3.0, 3.0, 9, 40, False, id="their share, and still fresh"),
        pytest.param(3.0, 3.0, 30, 40, True, id="their share, but seen too often"),
        pytest.param(3.0, 3.0, 30, 400, False, id="seen as often, but there are more of them"),
    ],
)
def test_labels_are_due_by_time_or_by_use(labels_s, training_s, steps, labels, due):
    under_way = SimpleNamespace(
        stage=StageConfig(label_share=0.4, max_repeats=2.0),
        spent={"labels": labels_s, "training": training_s},
        trainer=SimpleNamespace(step_count=steps, config=SimpleNamespace(n_mols=4)),
        counts={"labels": labels},
    )
    assert Stage.labels_are_due(under_way) is due


@pytest.mark.parametrize("kinds", [(), (KindConfig(("nobody",), sampling={"turned": 1.0}),)])
def test_without_kinds_all_geometries_are_made_alike(molecules, kinds):
    """As they were before there were kinds: in one line, by the same random numbers."""
    meant = LabelPool(64, 2 * len(KINDS), 96, "cpu")
    line, depths, teacher = Buckets(LABELS.atoms_a_call, 2), random.Random(4), SpringTeacher()
    under_way = stage_of(molecules, kinds)
    torch.manual_seed(9)
    source = AtHand(molecules)
    while source.running or any(line.waiting.values()):
        line.add(source.take())
        taken = line.take(partial=not source.running)
        if taken is not None:
            drives = lambda z, x, q: teacher.member(0, z, x, q).forces  # noqa: E731
            fill(
                meant, teacher, drives, pad(taken[1], taken[0], "cpu"), SAMPLING.drawn(depths),
                LABELS, Counter(),
            )  # fmt: skip
    torch.manual_seed(9)
    under_way.prepare()
    found = under_way.pool
    assert found.n_stored == meant.n_stored == len(ROWS)
    for name in ("numbers", "positions", "energy", "forces"):
        assert torch.equal(getattr(found, name), getattr(meant, name)), name
    assert ("kinds" in under_way.report()["configs"]) == bool(kinds)


def test_a_kind_has_geometries_of_its_own_and_the_others_have_not(molecules, calls):
    turning = KindConfig(("fragment",), sampling={"turned": 1.0, "held": 1.0})
    under_way = stage_of(molecules, (turning,))
    under_way.prepare()
    order = [index for call in calls for index in call.indices]
    assert sorted(order) == list(range(len(ROWS)))
    moved = {}
    for row, index in enumerate(order):
        start = torch.from_numpy(molecules[index].positions)
        n_atoms, pool = start.shape[1], under_way.pool
        ends = pool.positions[row, :, :n_atoms].view(2, len(KINDS), n_atoms, 3)[:, 1]
        moved[index] = float((torch.cdist(ends, ends) - torch.cdist(start, start)).abs().max())
    # Three steps of 0.1 Å at most.
    assert min(moved[0], moved[1]) > 1.0 > 0.7 > max(moved[k] for k in range(2, len(ROWS)))
    for index, (_, kind) in enumerate(ROWS):
        how = asked_of(calls, index).how
        meant = (1.0, 1.0) if kind == "fragment" else (0.0, 0.0)
        assert (how.turned, how.held, how.hot_steps) == (*meant, 2)


def test_molecules_with_groups_of_both_signs_are_a_kind_whatever_the_table_calls_them(
    molecules, calls
):
    folding = KindConfig((BOTH_SIGNS,), sampling={"relax_steps": 5, "max_relax_steps": 7})
    under_way = stage_of(molecules, (KindConfig(("cation",)), folding))
    under_way.prepare()
    for index, molecule in enumerate(molecules):
        assert (asked_of(calls, index).how.relax_steps >= 5) == (index in (4, 5)), ROWS[index]
        assert molecule.both_signs == (index in (4, 5))
    assert under_way.lines.counts == {"cation": 2, BOTH_SIGNS: 2, "others": 4}


def test_of_several_kinds_the_first_that_fits_counts(molecules):
    ionic, folding = KindConfig(("betaine",)), KindConfig((BOTH_SIGNS,))
    for kinds, place in (((ionic, folding), 0), ((folding, ionic), 0), ((folding,), 0)):
        lines = Lines(
            kinds, ["betaine"] * 6, driver="", sampling=SAMPLING, labels=LABELS, n_conformers=2
        )
        lines.add([molecules[5]])
        assert [line.n_waiting for line in lines.all].index(1) == place


def test_each_kind_is_driven_by_what_the_recipe_names(molecules, calls, tmp_path, monkeypatch):
    asked: Counter[str] = Counter()

    class Counting(SpringTeacher):
        def member(self, index, numbers, positions, charge):
            # A label is asked for by a call of it, a driver by one of a member.
            asked["member"] += 1
            return super().member(index, numbers, positions, charge)

        def __call__(self, numbers, positions, charge):
            return SpringTeacher.member(self, 0, numbers, positions, charge)

    opened = []
    load = stage_module.load_potential

    def noted(name, device):
        opened.append(name)
        return load(name, device=device)

    monkeypatch.setattr(stage_module, "load_potential", noted)
    usual, other = (str(tmp_path / f"{name}.safetensors") for name in ("usual", "other"))
    for name in (usual, other):
        save_checkpoint(random_model(5, SHAPE), tmp_path / name, {})
    kinds = (
        KindConfig(("cation",), "teacher"),
        KindConfig(("fragment",), other),
        KindConfig((BOTH_SIGNS,)),  # what drives the others
    )
    under_way = stage_of(molecules, kinds, Counting(), driver=usual)
    under_way.prepare()
    assert sorted(opened) == sorted([usual, other])
    for index, (_, kind) in enumerate(ROWS):
        meant = {
            "cation": under_way.teacher_drives,
            "fragment": under_way.guides[other],
        }.get(kind, under_way.guides[usual])
        assert asked_of(calls, index).driver == meant, ROWS[index]
    # A force of each step, one at the start of the trajectory and one at its first step.
    of_cations = [call for call in calls if call.driver == under_way.teacher_drives]
    assert asked["member"] == sum(call.how.relax_steps + 2 for call in of_cations) > 0


def test_the_student_drives_a_kind_though_weights_drive_the_others(molecules, tmp_path):
    usual = tmp_path / "usual.safetensors"
    save_checkpoint(random_model(5, SHAPE), usual, {})
    kinds = (KindConfig(("fragment",), "student"),)
    under_way = stage_of(molecules, kinds, driver=str(usual), student_drives_after=3)
    fragments, others = under_way.lines.all
    assert under_way.who_drives(others.driver) == under_way.guides[str(usual)]
    # It knows nothing yet.
    assert under_way.who_drives(fragments.driver) == under_way.teacher_drives
    under_way.trainer.step_count = 3
    assert under_way.who_drives(fragments.driver) == under_way.driver
    assert under_way.driver is not None


def test_kinds_come_in_the_order_of_the_recipe_and_all_lines_are_emptied_in_the_end(
    molecules, calls
):
    kinds = (KindConfig(("cation",)), KindConfig(("fragment",), calls=0.5))
    under_way = stage_of(molecules, kinds)
    lines = under_way.lines
    assert [line.buckets.sizes[24] for line in lines.all] == [4, 2, 4]
    lines.add(molecules)
    # Four of the others and two fragments fill a call each, two cations do not.
    under_way.make_next_labels()
    under_way.make_next_labels()
    assert [call.indices for call in calls] == [[0, 1], [2, 3, 4, 5]]
    under_way.make_next_labels()
    assert len(calls) == 2  # more may come
    under_way.embedder.left = []
    under_way.make_next_labels()
    assert calls[-1].indices == [6, 7]
    assert lines.empty
    under_way.make_next_labels()
    assert len(calls) == 3


class TwoAtOnce(Ranks):
    """Two processes that are threads."""

    def __init__(self) -> None:
        super().__init__(0, 2)
        self.meets, self.said = threading.Barrier(2, timeout=60), []

    def all(self, value: bool) -> bool:
        self.said.append(bool(value))
        self.meets.wait()
        so = all(self.said[-2:])
        self.meets.wait()  # or the faster one says more before the other has read this
        return so


def test_of_two_processes_the_one_that_still_has_some_labels_them_in_the_end(molecules):
    kinds, ranks = (KindConfig(("cation",)),), TwoAtOnce()
    both = [stage_of([], kinds) for _ in range(2)]
    for under_way in both:
        under_way.ranks = ranks
    both[1].lines.add([molecules[6]])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Stage.make_next_labels, both))
    assert [under_way.pool.n_stored for under_way in both] == [0, 1]


def test_one_line_keeps_what_does_not_fill_a_call(molecules, calls):
    under_way = stage_of(molecules)
    under_way.lines.add(molecules[:3])
    under_way.embedder.left = []
    under_way.make_next_labels()
    assert not calls


def test_the_first_labels_are_of_the_line_in_which_most_wait(molecules):
    """What comes first fixes the sizes of batches."""
    lines = stage_of(molecules, (KindConfig(("cation",), calls=0.5),)).lines
    lines.add(molecules)
    assert [line.buckets.full for line in lines.all] == [True, True]
    assert lines.longest is lines.all[1]
    lines.all[1].buckets.take()
    assert lines.longest is lines.all[0]
