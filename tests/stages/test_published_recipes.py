"""The paper's configs, shrunken, on what experiments/stand_in.py writes."""

import json
import shutil

import pytest

pytestmark = pytest.mark.slow

PLACES = {
    "market1501.py:ci": {"data.path": "market1501"},
    "cuhk03.py:ci": {"data.path": "cuhk03-np"},
    "casia_dit_xl2.py:ci": {"data.path": "casia/train.rec"},
}
PERSONS = {
    "recognize.start": "weights/resnet50",
    "extractor.weights": "weights/resnet50",
    "extractor.judge_weights": "weights/osnet",
}


@pytest.fixture(scope="module")
def stand_in(program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand_in") / "files"
    process = program.python("experiments/stand_in.py", str(folder))
    log = program.log_of(process)
    assert process.returncode == 0, log
    return folder


@pytest.mark.parametrize("name", PLACES)
def test_the_whole_recipe_runs(program, stand_in, tmp_path, name):
    paths = {"pretrain.source": "weights/dit", "autoencoder.path": "weights/autoencoder"}
    paths |= PLACES[name] | ({} if name.startswith("casia") else PERSONS)
    sets = (str(stand_in / "casia/lfw.bin"), f"rfw:{stand_in / 'rfw'}")
    flags = [f"--config.evaluate.verification_sets={sets}"] if name.startswith("casia") else []
    flags += [f"--config.{field}={stand_in / place}" for field, place in paths.items()]
    process = program.python(
        "-m", "rlsyn_jax.main", f"--config=configs/{name}", f"--workdir={tmp_path / 'run'}", *flags
    )
    log = program.log_of(process)
    assert process.returncode == 0, log
    measured = json.loads((tmp_path / "run" / "evaluate" / "metrics.json").read_text())
    assert set(measured["arms"]) == {"real", "real_reinforced_selected"}
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    sets = measured["verification_sets"]["sets"]
    races = [f"RFW {race}" for race in ("African", "Asian", "Caucasian", "Indian")]
    assert list(sets) == (["lfw", *races] if name.startswith("casia") else [])
    assert ("one threshold for all" in page) == name.startswith("casia")
    if name.startswith("casia"):
        measure_on_others(program, stand_in, tmp_path / "run", tmp_path / "others")


def measure_on_others(program, stand_in, workdir, folder):
    """The evaluation command on the run's recognisers, another data set and published pairs."""
    folder.mkdir()
    flags = [f"--workdir={workdir}", f"--data=market1501:{stand_in / 'market1501'}"]
    flags += ["--verification_sets", str(stand_in / "casia/lfw.bin")]
    flags += [f"--output={folder / 'metrics.json'}", f"--report={folder / 'report.html'}"]
    process = program.python("-m", "rlsyn_jax.evaluation", "run", *flags)
    log = program.log_of(process)
    assert process.returncode == 0, log
    measured = json.loads((folder / "metrics.json").read_text())
    (of_data,) = measured["data"].values()
    assert of_data["queries"] > 0 and set(of_data["arms"]) == {"real", "real_reinforced_selected"}
    own = json.loads((workdir / "evaluate" / "metrics.json").read_text())["verification_sets"]
    assert measured["verification_sets"]["sets"]["lfw"] == own["sets"]["lfw"]
    assert "mAP" in log and "lfw" in log
    assert "What queries find" in (folder / "report.html").read_text()
    process = program.python("-m", "rlsyn_jax.evaluation", "run", f"--workdir={folder}", *flags[1:])
    assert "is not the folder of a run with recognisers" in program.log_of(process)
    assert process.returncode == 2
    record = workdir / "recognize" / "stage.json"
    begun = json.loads(record.read_text()) | {"complete": False}
    shutil.copytree(workdir / "recognize", folder / "recognize")
    (folder / "recognize" / "stage.json").write_text(json.dumps(begun))
    process = program.python("-m", "rlsyn_jax.evaluation", "run", f"--workdir={folder}", *flags[1:])
    assert "recognisers are not complete; go on with the run" in program.log_of(process)
