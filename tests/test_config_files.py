"""Mistakes in a config file: told in one line, with the file's own, before any device is used."""

import pytest

START = "from rlsyn_jax.config import default_config\n\n\ndef get_config():\n"
MISTAKES = {
    "no function": ("x = 1\n", r"error: {path} defines no function get_config, which returns"),
    "no Python": ("def get_config(:\n", r"error: {path}, line 1: SyntaxError: invalid syntax"),
    "no such module": ("import not_there\n", r"error: {path}, line 1: ModuleNotFoundError: No mod"),
    "no such field": (
        f"{START}    config = default_config()\n    config.adapt.stepz = 3\n    return config\n",
        "error: {path}, line 6: the config has no field 'stepz'. Did you mean \"steps\"",
    ),
    "another kind": (
        f'{START}    config = default_config()\n    config.adapt.steps = "many"\n',
        "error: {path}, line 6: TypeError: Could not override field 'steps'",
    ),
    "its own error": (f'{START}    raise ValueError("no")\n', "error: ValueError: no"),
    "an index": (f"{START}    return ()[1]\n", "error: {path}, line 5: IndexError: tuple index"),
    "none": (
        f"{START}    config = default_config()\n    config.seed = None\n    return config\n",
        "error: config.seed is None; it must be a number",
    ),
    "not all fields": (
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        "    return ConfigDict({{'name': 'mine', 'seed': 0}})\n",
        "error: config.adapt is missing; a config file starts from rlsyn_jax.config.default_config",
    ),
    "a section that is a number": (
        "from ml_collections import ConfigDict\nfrom rlsyn_jax.config import default_config\n\n\n"
        "def get_config():\n    return ConfigDict({{**default_config(), 'adapt': 3}})\n",
        "error: config.adapt is 3; it must be a ConfigDict of fields",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_config_file_is_told_in_one_line(program, tmp_path, mistake):
    text, expected = MISTAKES[mistake]
    path = tmp_path / "mine.py"
    path.write_text(text.format())
    process = program.python(
        "-m", "rlsyn_jax.main", f"--config={path}", "--workdir", tmp_path / "w"
    )
    log = program.log_of(process)
    assert process.returncode == 1 and not (tmp_path / "w").exists()
    assert log.startswith(expected.format(path=path)) and len(log.splitlines()) == 1, log
