"""What the README shows works as it stands there: its two lines, its reward and its checkpoint."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def code_block(first_line: str) -> str:
    """The Python block that starts with a comment."""
    (block,) = re.findall(rf"```python\n({re.escape(first_line)}\n.*?)```", README, re.DOTALL)
    return block


def test_ci_runs_the_two_lines():
    script = (ROOT / ".ci" / "run").read_text()
    patterns = re.findall(r'grep -m1 -E "(.*?)" README.md', script)
    assert len(patterns) == 2
    for pattern in patterns:
        assert len(re.findall(pattern, README, re.MULTILINE)) == 1


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.fixture
def own_reward(tmp_path) -> Path:
    (tmp_path / "my_rewards.py").write_text(code_block("# my_rewards.py"))
    (tmp_path / "my_config.py").write_text(code_block("# my_config.py"))
    return tmp_path


def test_the_reward_of_ten_lines_gives_one_number_a_sample(own_reward):
    namespace = {}
    exec((own_reward / "my_rewards.py").read_text(), namespace)
    random = np.random.default_rng(0)
    embeddings, features = random.normal(size=(3, 4, 5)), random.normal(size=(3, 2, 5))

    class Bank:
        pass

    bank = Bank()
    bank.features = jnp.asarray(features)
    scores = jax.jit(lambda e: namespace["like_the_first"](e, bank, power=2.0))(embeddings)
    expected = [[(sample @ features[i, 0]) ** 2 for sample in embeddings[i]] for i in range(3)]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.slow
def test_a_run_with_that_reward_logs_it_and_its_checkpoints_load(program, own_reward):
    workdir = own_reward / "run"
    fields = program.tiny_fields | {
        "pretrain.steps": 2,
        "adapt.steps": 2,
        "reinforce.iterations": 1,
    }
    fields |= {"reinforce.num_steps": 4, "reinforce.num_trained_steps": 2}
    fields |= {"recognize.arms": "('real','real_reinforced')"}
    process = program.python(
        "-m",
        "rlsyn_jax.main",
        f"--config={own_reward / 'my_config.py'}",
        f"--workdir={workdir}",
        "--stages=pretrain,adapt,reinforce,synthesize,recognize",
        *(f"--config.{path}={value}" for path, value in fields.items()),
        environment={"PYTHONPATH": str(own_reward)},
    )
    log = program.log_of(process)
    assert process.returncode == 0, log
    lines = (workdir / "reinforce" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert 0 < last["share/first"] < 1 and "fixed/first" in last

    example = code_block("from rlsyn_jax.training.checkpoints import restore_params")
    namespace = {}
    exec(example.replace("runs/quickstart", str(workdir)), namespace)
    table = namespace["params"]["y_embedder"]["embedding_table"]
    assert table.shape[1] == program.tiny_fields["generator.width"]

    image = program.config().image
    namespace = {"images": np.zeros((3, image.size, image.size, image.channels), np.uint8)}
    exec(code_block("# embed.py").replace("runs/quickstart", str(workdir)), namespace)
    assert namespace["embeddings"].shape == (3, program.tiny_fields["recognize.embedding_dim"])
