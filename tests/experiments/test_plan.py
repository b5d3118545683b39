"""The plan of a sweep of real configs: what cells share, what is added to them, and its file."""

import pytest
from sweeping.cells import SweepError
from sweeping.commands import job_command
from sweeping.plan import _plan, read_plan, write_plan


def test_seeds_find_one_prior_and_reports_tell_their_cell(tiny_sweep, tmp_path):
    plan = _plan(str(tiny_sweep("hyper.seeds(2)", **{"reinforce.eta": 1})), tmp_path)
    assert list(plan.cells) == ["seed=0", "seed=1"]
    assert plan.cells["seed=1"]["seed"] == 1 and plan.cells["seed=1"]["pretrain.steps"] == 12
    first, rest, second = plan.jobs
    assert (first.name, first.stages) == ("seed=0.pretrain", ("pretrain",))
    assert rest.after == second.after == ("seed=0.pretrain",)
    for job in plan.jobs:
        assert job.changes["pretrain.cache"] == str(tmp_path / "priors")
    assert second.changes["name"] == "Quickstart, shrunken: seed=1"


def test_more_seeds_find_what_fewer_have_made(tiny_sweep, tmp_path):
    one = _plan(str(tiny_sweep("hyper.seeds(1)")), tmp_path)
    two = _plan(str(tiny_sweep("hyper.seeds(2)")), tmp_path)
    (seed,) = one.cells
    for stage in ("pretrain", "evaluate"):
        assert one.fingerprint(seed, stage) == two.fingerprint("seed=0", stage)


def test_a_sweep_is_called_as_its_base_is(tiny_sweep, tmp_path):
    plan = _plan(str(tiny_sweep('hyper.sweep("name", ["a", "b"])', seed=1)), tmp_path)
    assert plan.title == "Quickstart, shrunken"


def test_a_prior_that_is_not_trained_is_not_kept(tiny_sweep, tmp_path):
    path = tiny_sweep("hyper.seeds(2)", **{"pretrain.source": "some/checkpoint"})
    plan = _plan(str(path), tmp_path)
    assert [job.after for job in plan.jobs] == [(), ()]
    assert not any("pretrain.cache" in job.changes for job in plan.jobs)


def test_stages_are_shared_up_to_the_first_that_reads_a_field(tiny_sweep, tmp_path):
    cells = (
        'hyper.grid({"rewards.coverage.weight": [0, 1], "recognize.learning_rate": [1e-3, 3e-3]})'
    )
    plan = _plan(str(tiny_sweep(cells)), tmp_path)
    shared = [(job.stages, len(job.cells)) for job in plan.jobs if len(job.cells) > 1]
    assert shared == [(("pretrain", "adapt"), 4), *[(("reinforce", "synthesize"), 2)] * 2]
    own = [job for job in plan.jobs if len(job.cells) == 1]
    assert len(own) == 4
    assert all(job.stages == ("recognize", "evaluate", "report") for job in own)


@pytest.mark.parametrize("field", ["fsdp", "log_every_seconds"])
def test_cells_that_differ_in_nothing_a_run_depends_on_are_refused(tiny_sweep, tmp_path, field):
    path = tiny_sweep(f'hyper.product([hyper.sweep("{field}", [1, 2])])')
    path.write_text(path.read_text().replace("'log_every_seconds': 0.0,", ""))
    with pytest.raises(SweepError, match="=1 and .*=2 would make the same"):
        _plan(str(path), tmp_path)


def test_a_plan_that_was_written_gives_the_same_commands(tiny_sweep, tmp_path):
    path = tiny_sweep('hyper.sweep("evaluate.num_neighbors", [2, 3])')
    plan = _plan(str(path), tmp_path)
    write_plan(plan, tmp_path)
    read = read_plan(tmp_path)
    assert read.cells.keys() == plan.cells.keys() and read.base == plan.base
    for job, again in zip(plan.jobs, read.jobs, strict=True):
        assert job_command(plan.base, tmp_path, job) == job_command(read.base, tmp_path, again)
        assert (job.links, job.after, job.stages) == (again.links, again.after, again.stages)


def test_a_part_of_a_plan_has_what_its_cells_rest_on(tiny_sweep, tmp_path):
    cells = 'hyper.product([hyper.seeds(2), hyper.sweep("recognize.learning_rate", [1e-3, 3e-3])])'
    plan = _plan(str(tiny_sweep(cells)), tmp_path)
    part = plan.only(["*=0.003,seed=1"])
    assert list(part.cells) == ["learning_rate=0.003,seed=1"]
    stages = ["pretrain", "adapt", "reinforce", "synthesize", "recognize", "evaluate", "report"]
    # The first seed's run trains the prior.
    trainer, *own = part.jobs
    assert trainer.stages == ("pretrain",) and not set(part.cells) & set(trainer.cells)
    assert [stage for job in own for stage in job.stages] == stages
    assert all(set(part.cells) <= set(job.cells) for job in own)
    assert plan.only(["*seed=0", "*seed=1"]) == plan
    with pytest.raises(SweepError, match="like '\\*seed=2'; the cells are\nlearning_rate=0.001,"):
        plan.only(["*seed=1", "*seed=2"])


@pytest.mark.parametrize("content", ['{"base": ', "[]", '{"base": "x", "jobs": [{}]}'])
def test_a_damaged_plan_is_told(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(SweepError, match="sweep.json is damaged .*; delete it, and the sweep's"):
        read_plan(tmp_path)


def test_a_folder_without_a_plan_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="--launcher=none makes it"):
        read_plan(tmp_path)
