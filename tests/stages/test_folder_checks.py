"""A run does not write among the files that it reads, nor where readers would be misled."""

import pytest

from rlsyn_jax.config import ConfigError
from rlsyn_jax.stages import set_up
from rlsyn_jax.stages.folder_checks import check_folders


def test_a_run_inside_of_its_data_set_is_refused_before_it_writes(program, tmp_path):
    data, outside = tmp_path / "people", tmp_path / "run"
    data.mkdir()
    config = program.config(data={"source": "market1501", "path": str(data / ".." / "people")})
    check_folders(config, outside)
    check_folders(config, tmp_path / "people and more")
    with pytest.raises(ConfigError, match="^--workdir is .*inside of config.data.path"):
        set_up(config, data / "runs" / "first")
    assert not list(data.iterdir())
    config.data.cache = str(data / "cache")
    with pytest.raises(ConfigError, match="^config.data.cache is .*inside of config.data.path"):
        check_folders(config, outside)


@pytest.mark.parametrize("section", ["data", "general_data", "pretrain", "autoencoder"])
def test_a_cache_inside_of_the_general_data_is_refused_too(program, tmp_path, section):
    general = {"source": "folder", "path": str(tmp_path / "general")}
    config = program.config(general_data=general)
    (tmp_path / "general").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "general")
    config[section].cache = str(tmp_path / "link" / "cache")
    with pytest.raises(ConfigError, match=f"config.{section}.cache .*config.general_data.path"):
        check_folders(config, tmp_path / "run")


def test_where_nothing_is_read_a_run_may_write(program, tmp_path):
    config = program.config(data={"path": str(tmp_path)})
    assert config.data.source == "procedural"
    check_folders(config, tmp_path / "run")


def test_a_path_that_readers_take_for_a_name_is_told_where_it_matters(program, tmp_path):
    config = program.config(
        data={"source": "market1501", "path": str(tmp_path / "market")},
        synthesize={"exports": ("market1501",)},
    )
    check_folders(config, tmp_path / "run")
    with pytest.raises(ValueError, match="holds '3_c4'"):
        check_folders(config, tmp_path / "exp_3_c4" / "run")
    config.data.source = "folder"
    check_folders(config, tmp_path / "exp_3_c4" / "run")
    config.data.source, config.synthesize.exports = "market1501", ("recordio",)
    check_folders(config, tmp_path / "exp_3_c4" / "run")
