"""What is shared and what waits for what, against the definition, on generated sweeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeping.jobs import PlannedCell, make_jobs

STAGES = ("pretrain", "adapt", "reinforce", "report")


def planned(cells):
    """Cells of the values each stage reads; a fingerprint holds those of all stages before."""
    return [
        PlannedCell(
            f"cell_{number}",
            {"value": number},
            {stage: "".join(map(str, values[: place + 1])) for place, stage in enumerate(STAGES)},
            f"prior_{prior}" if prior else "",
        )
        for number, (values, prior) in enumerate(cells)
    ]


CELLS = st.lists(
    st.tuples(
        st.tuples(*[st.integers(0, 1)] * (len(STAGES) - 1), st.integers(0, 5)), st.integers(0, 2)
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda cell: cell[0],
).map(
    # A stage that is equal was made with one prior.
    lambda cells: [(values, dict((v[0], p) for v, p in cells)[values[0]]) for values, _ in cells]
)


@given(CELLS)
def test_each_stage_is_made_once_and_after_what_it_reads(cells):
    cells = planned(cells)
    jobs = make_jobs(cells)
    made = {}
    ended = set()
    for job in jobs:
        assert job.stages and set(job.after) <= ended
        before = {
            name for other in jobs if other.name in job.after for name in (other.name, *other.after)
        }
        assert before <= ended
        for stage, workdir in job.links.items():
            assert made[workdir, stage]
        for stage, fingerprint in job.fingerprints.items():
            assert fingerprint not in made.values()  # Once.
            made[job.workdir, stage] = fingerprint
        ended.add(job.name)
    # Every cell comes to its own stages, in its folder or by a link.
    assert set(made.values()) == {f for cell in cells for f in cell.fingerprints.values()}
    for cell in cells:
        own = [job for job in jobs if job.workdir == f"cells/{cell.name}"]
        assert own[-1].name == cell.name and own[-1].stages[-1] == "report"
        has = {s: made[source, s] for job in own for s, source in job.links.items()}
        has |= {s: f for job in own for s, f in job.fingerprints.items()}
        assert has == cell.fingerprints
        assert all(job.changes == cell.changes for job in own)


@given(CELLS)
def test_a_prior_is_trained_by_one_job_before_the_others_that_need_it(cells):
    cells = planned(cells)
    prior_of = {cell.name: cell.prior for cell in cells}
    jobs = {job.name: job for job in make_jobs(cells)}
    for prior in set(prior_of.values()) - {""}:
        trainers = [
            job
            for job in jobs.values()
            if "pretrain" in job.stages and prior_of[job.cells[0]] == prior
        ]
        for job in trainers[1:]:
            assert job.after == (trainers[0].name,)
            assert trainers[0].stages == ("pretrain",)


def test_cells_of_one_run_share_up_to_where_they_part():
    jobs = make_jobs(planned([((0, 0, 0, 0), 0), ((0, 0, 0, 1), 0), ((0, 0, 1, 0), 0)]))
    assert [(job.workdir, job.stages, job.after) for job in jobs] == [
        ("shared/adapt-00", ("pretrain", "adapt"), ()),
        ("shared/reinforce-000", ("reinforce",), ("adapt-00",)),
        ("cells/cell_0", ("report",), ("reinforce-000",)),
        ("cells/cell_1", ("report",), ("reinforce-000",)),
        ("cells/cell_2", ("reinforce", "report"), ("adapt-00",)),
    ]
    assert jobs[2].links == {
        "pretrain": "shared/adapt-00",
        "adapt": "shared/adapt-00",
        "reinforce": "shared/reinforce-000",
    }


def test_seeds_share_the_prior_alone():
    jobs = make_jobs(planned([((0, 0, 0, 0), 1), ((1, 0, 0, 0), 1)]))
    assert [(job.name, job.stages, job.after) for job in jobs] == [
        ("cell_0.pretrain", ("pretrain",), ()),
        ("cell_0", ("adapt", "reinforce", "report"), ("cell_0.pretrain",)),
        ("cell_1", STAGES, ("cell_0.pretrain",)),
    ]


def test_cells_that_would_make_the_same_are_refused():
    with pytest.raises(ValueError, match="cells cell_0 and cell_1 would make the same"):
        make_jobs(planned([((0, 0, 0, 0), 0), ((0, 0, 0, 0), 0)]))
