"""The command line: what is wrong is told in one message, before any training, and ends the run."""

import re
import sys

import jax
import numpy as np
import pytest
from absl import logging
from absl.testing import flagsaver
from PIL import Image

from rlsyn_jax import main
from rlsyn_jax.data.synthetic_writer import read_manifest
from rlsyn_jax.stages import pretrain
from rlsyn_jax.stages.inputs import load_target
from rlsyn_jax.stages.stage_record import StageRecord

QUICKSTART = "--config=configs/quickstart.py:ci"


@pytest.fixture
def refusal(program, monkeypatch):
    """A function (workdir, *flags, fields) that runs `main` and returns what it refuses with."""
    cache, handler = jax.config.jax_compilation_cache_dir, logging.get_absl_handler()

    def run(workdir, *arguments, fields=None):
        # Overrides of a config are looked for in sys.argv.
        monkeypatch.setattr("sys.argv", ["main", *program.flags(workdir, fields), *arguments])
        with flagsaver.flagsaver():
            with pytest.raises(SystemExit) as exit:
                main.main(main.parse_flags(sys.argv))
        message = exit.value.code
        assert isinstance(message, str) and message.startswith("error: "), message
        return message

    yield run
    jax.config.update("jax_compilation_cache_dir", cache)
    for added in list(handler.filters):
        handler.removeFilter(added)


def write(path, value=100, size=(20, 24), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)


def people(folder, number=4, images=4):
    for person in range(number):
        for image in range(images):
            write(folder / f"person {person}" / f"{image}.png", 20 * person + image)
    return folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--workdir=W"], r"flag --config=None"),
        ([QUICKSTART], r"flag --workdir: it must be a folder"),
        (["--config=configs/absent.py", "--workdir=W"], r"No such file.*'configs/absent.py'"),
        ([f"{QUICKSTART}x", "--workdir=W"], r"quickstart.py:cix is not known; give nothing or :ci"),
        ([QUICKSTART, "--workdir=W", "--config.adapt.stepz=3"], r"no field 'stepz'.*\"steps\""),
        ([QUICKSTART, "--workdir=W", "--config.adept.steps=3"], r"no field 'adept'.*\"adapt\""),
        (
            [QUICKSTART, "--workdir=W", "--config.adapt.steps=many"],
            r"config.adapt.steps=many:.*int",
        ),
        ([QUICKSTART, "--workdir=W", "--config.fsdp=0"], r"config.fsdp is 0; it must be a whole"),
        ([QUICKSTART, "--workdir=W", "--stages=adapt"], r"needs the output of stage 'pretrain'"),
    ],
)
def test_a_process_that_cannot_start_says_why_and_fails(program, tmp_path, arguments, expected):
    arguments = [argument.replace("=W", f"={tmp_path}/run") for argument in arguments]
    process = program.python("-m", "rlsyn_jax.main", *arguments)
    log = program.log_of(process)
    assert process.returncode == 1
    assert re.search(rf"^error: .*{expected}", log, re.DOTALL | re.MULTILINE), log
    assert "Traceback" not in log and len(log.splitlines()) <= 4, log


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--stages=adapt,pretty"], "--stages is .*pretty.*; the stages are pretrain, adapt,"),
        (["--stages="], "--stages is .*; the stages are"),
        (["extra"], "unexpected arguments .*extra"),
        (["--config.reinforce.eta=0"], "config.reinforce.eta is 0.0; it must be"),
        (["--config.devices=h900x8"], "config.devices is 'h900x8'; .* h100x8; kinds are a100, .*"),
        (["--plan", "--config.fsdp=3"], "config.fsdp is 3; it must divide the number of devices"),
        (["--config.adapt.learning_rate=inf"], "config.adapt.learning_rate is inf; it must be"),
    ],
)
def test_values_are_refused_before_anything_is_made(refusal, tmp_path, arguments, expected):
    message = refusal(tmp_path / "run", *arguments)
    assert re.search(expected, message) and "\n" not in message
    assert not (tmp_path / "run").exists()


def absent(folder):
    return r"config.data.path is '.*', which is not a folder"


def empty(folder):
    folder.mkdir()
    return "holds no identity folders"


def one_identity(folder):
    people(folder, number=1)
    return "only one identity, 'person 0'; at least two"


def single_images(folder):
    people(folder, images=1)
    return "config.split: closed_images_per_identity is 2, but no training identity .* second image"


def nothing_in_it(folder):
    (people(folder) / "person 1" / "0.png").write_bytes(b"")
    return r"person 1/0.png is empty \(0 bytes\)"


def cut_off(folder):
    write(people(folder) / "person 1" / "9.jpg")
    content = (folder / "person 1" / "9.jpg").read_bytes()
    (folder / "person 1" / "9.jpg").write_bytes(content[: len(content) // 2])
    return "person 1/9.jpg cannot be read"


def no_image(folder):
    (people(folder) / "person 1" / "9.jpg").write_text("not an image")
    return "person 1/9.jpg"


def differ_in_case(folder):
    write(people(folder) / "PERSON 1" / "0.png")
    return "'PERSON 1' and 'person 1', whose names differ only in upper and lower case"


@pytest.mark.parametrize(
    "make",
    [absent, empty, one_identity, single_images, nothing_in_it, cut_off, no_image, differ_in_case],
)
def test_data_that_cannot_be_used_is_refused_before_training(refusal, tmp_path, make):
    expected = make(tmp_path / "set")
    fields = {"data.source": "folder", "data.path": tmp_path / "set", "data.num_identities": 0}
    message = refusal(tmp_path / "run", fields=fields)
    assert re.search(expected, message) and "\n" not in message, message
    # Nothing was made, so the same folder takes the corrected command.
    assert not (tmp_path / "run" / "pretrain").exists()
    second = refusal(tmp_path / "run", fields=fields | {"data.path": tmp_path / "other"})
    assert "other', which is not a folder" in second


def test_the_general_data_is_checked_too(refusal, tmp_path):
    fields = {"general_data.source": "folder", "general_data.path": tmp_path / "absent"}
    message = refusal(tmp_path / "run", fields=fields)
    assert re.search("config.general_data.path is '.*absent', which is not a folder", message)
    # A prior by somebody else is not copied before the data it will be used with is found wrong.
    fields |= {"pretrain.source": "shipped", "general_data.path": tmp_path / "missing"}
    message = refusal(tmp_path / "run", fields=fields)
    assert re.search("config.general_data.path is '.*missing', which is not a folder", message)
    assert {path.name for path in (tmp_path / "run" / "pretrain").iterdir()} == {"stage.json"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"fsdp": 3}, "config.fsdp is 3; it must divide the number of devices, 8"),
        ({"pretrain.batch_size": 12}, "config.pretrain.batch_size is 12; .* of devices, 8"),
        ({"adapt.batch_size": 4}, "config.adapt.batch_size is 4; .* of devices, 8"),
        ({"reinforce.samples": 3}, "2 identities x 3 samples = 6, which .* by the 8 devices"),
        ({"reinforce.micro_batch": 5}, "config.reinforce.micro_batch is 5 transitions;"),
        ({"reinforce.sigma_floor": 9.0}, "config.reinforce.*sigma_floor 9.0"),
    ],
)
def test_what_the_devices_cannot_share_is_refused_before_any_stage(
    refusal, tmp_path, fields, expected
):
    assert re.search(expected, refusal(tmp_path / "run", fields=fields))
    assert not (tmp_path / "run" / "pretrain").exists()


@pytest.mark.slow
def test_an_iteration_that_does_not_fit_leaves_the_folder_to_one_that_does(
    program, refusal, tmp_path, monkeypatch
):
    program.run(tmp_path / "run", "--stages=pretrain,adapt", devices=8)
    with monkeypatch.context() as little:
        little.setattr("rlsyn_jax.stages.assembled_policy.available_bytes", lambda devices: 1000)
        message = refusal(tmp_path / "run", "--stages=reinforce")
    assert re.search("another .* MiB on each device, and 0 MiB are free; lower", message)
    fields = {"reinforce.num_steps": 5, "remat": "blocks"}
    log = program.run(tmp_path / "run", "--stages=reinforce", fields=fields, devices=8)
    assert "reinforce: done" in log


def odd_people(folder):
    """Images of every size and kind that decoders know, of people with names from everywhere."""
    for number, name in enumerate(["Zoë", "李小龍", "Ünal, Ç.", "a'b", "100 %", "nul"]):
        deep = np.linspace(0, 65535, 30 * 40).reshape(30, 40).astype(np.uint16)
        (folder / name).mkdir(parents=True)
        Image.fromarray(deep + number).save(folder / name / "16 bit.png")
        write(folder / name / "alpha.png", 40 * number, (17, 33), "RGBA")
        write(folder / name / "palette.png", 40 * number, (64, 16), "P")
        write(folder / name / "ink.jpg", 40 * number, (31, 31), "CMYK")
        write(folder / name / "grey.bmp", 40 * number, (8, 9), "L")
    return folder


def test_images_of_every_size_and_kind_are_read(program, tmp_path):
    source = {"source": "folder", "path": str(odd_people(tmp_path / "set")), "num_identities": 0}
    dataset, splits = load_target(program.config(data=source), tmp_path / "run")
    assert dataset.images.shape == (30, 16, 16, 3)
    assert set(dataset.identity_names) == {path.name for path in (tmp_path / "set").iterdir()}
    for image in dataset.images[["16 bit" in name for name in dataset.file_names]]:
        assert image.min() < 40 and image.max() > 215  # Scaled to 8 bits, not cut.
    again, _ = load_target(program.config(data=source), tmp_path / "run")
    np.testing.assert_array_equal(again.images, dataset.images)
    assert len(splits.train_identities) == 4


@pytest.mark.slow
def test_names_from_everywhere_pass_through_the_synthetic_data_set(program, tmp_path):
    folder = odd_people(tmp_path / "sét of 人")
    fields = {"data.source": "folder", "data.path": folder, "data.num_identities": 0}
    stages = "--stages=pretrain,adapt,reinforce,synthesize"
    program.run(tmp_path / "rún", stages, fields=fields)
    directory = tmp_path / "rún" / "synthesize" / "reinforced"
    manifest = read_manifest(directory)
    assert len(set(manifest["identity"])) == 4
    assert set(manifest["identity"]) <= {path.name for path in folder.iterdir()}
    for file in manifest["file"]:
        assert Image.open(directory / file).size == (16, 16)


def test_a_work_folder_of_another_config_is_refused(program, refusal, tmp_path):
    record = StageRecord(tmp_path, "pretrain", program.config(), pretrain.FIELDS)
    (record.directory / "model").mkdir()
    message = refusal(tmp_path, fields={"seed": 3, "generator.width": 64})
    assert "config.seed: 0 there, 3 now" in message
    assert "config.generator.width: 32 there, 64 now" in message
    assert len(message.splitlines()) == 4
    assert f"Use another --workdir, set the fields back, or delete {tmp_path}" in message


@pytest.mark.parametrize("stage", [stage for stage in main.STAGES if stage != "pretrain"])
def test_a_stage_without_its_input_is_refused(refusal, tmp_path, stage):
    message = refusal(tmp_path, f"--stages={stage}")
    assert f"stage {stage!r} needs the output of stage 'pretrain', which is not complete" in message
    assert not (tmp_path / stage).exists()


@pytest.mark.parametrize("content", ['{"stage": "pre', "[]", '{"stage": "pretrain"}', "[" * 9999])
def test_a_damaged_record_is_refused(refusal, tmp_path, content):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "stage.json").write_text(content)
    message = refusal(tmp_path)
    assert re.search("stage.json is damaged .*; delete the folder .*pretrain and run", message)


def test_a_read_only_place_is_refused(refusal, mounted, tmp_path):
    with mounted(tmp_path / "disk", read_only=True) as disk:
        message = refusal(disk / "run")
    assert re.search("cannot write .*: the file system is read-only; choose another", message)


def test_a_file_in_the_way_is_refused(refusal, tmp_path):
    (tmp_path / "run").write_text("")
    assert "a part of the path is a file; choose another folder" in refusal(tmp_path / "run")


def test_a_small_disk_is_refused(refusal, mounted, tmp_path):
    with mounted(tmp_path / "disk", "size=8m") as disk:
        message = refusal(disk / "run")
    assert re.search(
        r"the disk is full: .* has \d\.\d MiB left and a run needs at least 64 MiB; free some",
        message,
    )
