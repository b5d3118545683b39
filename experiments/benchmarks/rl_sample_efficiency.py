"""How many forward passes each way of training a denoising loop needs for the same reward.

    python experiments/benchmarks/rl_sample_efficiency.py --config=FILE --workdir=DIR

DIR is a run's workdir; pretrain and adapt are run there if they are not complete. From the same
cold start every setting is reinforced with the same rewards, identities and noise, by a constant
learning rate: the full loop for config.reinforce.iterations, the others until they have used
--share of its work. Work is counted in forward passes of one sample: a pass through the network is
one, its backward pass is one more for the gradient of activations, and another one where the
blocks' weights train, too. The reward is that of fixed noise, drawn as the synthetic data set will
be, as a weighted sum in deviations since the cold start; held-out measures are those of the run.

Every (setting, seed) leaves a file in DIR/sample_efficiency and is not run again. The last line is
JSON: flops_to_equal_reward is the work of the default setting up to the full loop's highest reward,
over the full loop's up to the same (null where it is not reached).
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure
from ml_collections import ConfigDict, config_flags

from rlsyn_jax.config_checks import validate
from rlsyn_jax.report.figures import COLORS
from rlsyn_jax.rl.monitoring import total_reward
from rlsyn_jax.stages import run_stage, set_up, stage_fingerprints
from rlsyn_jax.stages.assembled_policy import compiled, make_policy
from rlsyn_jax.stages.fixed_noise import fixed_noise_measure
from rlsyn_jax.stages.generator import make_sampler
from rlsyn_jax.stages.inputs import load_target
from rlsyn_jax.stages.policy import policy_steps
from rlsyn_jax.training.atomic_files import write_bytes, write_json
from rlsyn_jax.training.meshes import make_mesh, place, replicated
from rlsyn_jax.training.trainable import merge

GUIDED = {"guidance_scale": 1.5, "unconditional": "trained"}
PLAIN = {"guidance_scale": 1.0}
LONG = {"num_steps": 8}
EVERYWHERE = {"deterministic_elsewhere": False, "trained_steps": "all"}
THREE = {"deterministic_elsewhere": True, "trained_steps": "noisiest", "num_trained_steps": 3}
TENTH = {
    "deterministic_elsewhere": False,
    "trained_steps": "fraction",
    "trained_fraction": 0.1,
}
# The default is the config's own: 2 noisiest of 4 steps, guided, unless a field says otherwise.
SETTINGS = {
    "all steps": {**LONG, **GUIDED, **EVERYWHERE},
    "10 % of the steps": {**LONG, **GUIDED, **TENTH},
    "3 noisiest": {**LONG, **GUIDED, **THREE},
    "all steps without guidance": {**LONG, **PLAIN, **EVERYWHERE},
    "3 noisiest without guidance": {**LONG, **PLAIN, **THREE},
    "3 noisiest of 4": {**GUIDED, **THREE, "num_steps": 4},
    "default": {},
    "default by ddpo_sf": {"algorithm": "ddpo_sf"},
    "default by dpok": {"algorithm": "dpok", "kl_weight": 0.01, "value_steps": 5},
}
FULL, DEFAULT = "all steps", "default"
MEASURES = ("identity_accuracy", "precision", "recall")

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "A run's folder.")
_SETTINGS = flags.DEFINE_list("settings", list(SETTINGS), "Settings to measure.")
_SEEDS = flags.DEFINE_integer("seeds", 2, "Repetitions with other random numbers.")
_SHARE = flags.DEFINE_float("share", 0.5, "Work of every other setting, over the full loop's.")
_EVALUATIONS = flags.DEFINE_integer("evaluations", 8, "Measurements of a curve.")
_FIGURE = flags.DEFINE_string("figure", "", "PNG of the curves; '' = DIR/sample_efficiency.png.")


def passes_per_iteration(config: ConfigDict) -> int:
    """Returns an iteration's work in forward passes of one sample."""
    reinforce = config.reinforce
    _, _, trained_steps, _ = policy_steps(config)
    branches = 1 if reinforce.guidance_scale == 1 else 2
    backward = 1 if reinforce.trainable == "class_embedding" else 2
    update = branches * (1 + backward)
    if branches == 2 and reinforce.unconditional == "detached":
        update -= backward
    if reinforce.kl_weight > 0:
        update += branches  # Of the cold start.
    rollout = branches * reinforce.num_steps
    samples = reinforce.identities * reinforce.samples
    return samples * (rollout + reinforce.inner_epochs * trained_steps * update)


def with_setting(config: ConfigDict, name: str) -> ConfigDict:
    """Returns the config with one setting's fields and a constant learning rate."""
    config = config.copy_and_resolve_references()
    # Passes are counted of what goes by log-probabilities.
    config.reinforce.update({"algorithm": "ddpo_is", **SETTINGS[name]})
    config.reinforce.decay = "constant"
    validate(config)
    return config


def reinforce(config: ConfigDict, workdir: Path, seed: int, iterations: int, measure) -> dict:
    """Returns the curve of one setting and seed, and the seconds of its median iteration."""
    policy = compiled(make_policy(config, workdir, make_mesh(config.fsdp)))
    key = place(jax.random.key(1000 + seed), replicated(make_mesh(config.fsdp)))
    state, passes = policy.state.replace(key=key), passes_per_iteration(config)
    wanted = set(np.linspace(0, iterations, _EVALUATIONS.value + 1).round().astype(int).tolist())
    curve, seconds = [], []
    for number in range(iterations + 1):
        if number:
            started = time.perf_counter()
            state, metrics = policy.step(state)
            jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - started)
        if number in wanted:
            values = measure(merge(state.ema_params, policy.frozen))
            curve.append({"iteration": number, "passes": number * passes, **values})
            curve[-1]["reward"] = total_reward(
                curve[-1], curve[0], policy.weights, in_deviations=True
            )
            _tell(f"iteration {number} of {iterations}: reward {curve[-1]['reward']:.3f}")
    return {"curve": curve, "seconds": statistics.median(seconds)}


def measured(config: ConfigDict, workdir: Path, name: str, seed: int, full: int, measure) -> dict:
    """Returns the record of one setting and seed, from its file where it has been measured."""
    config = with_setting(config, name)
    passes = passes_per_iteration(config)
    work = full if name == FULL else full * _SHARE.value
    iterations = max(1, round(work / passes))
    plan = {
        "setting": name,
        "seed": seed,
        "iterations": iterations,
        "passes_per_iteration": passes,
        "reinforce": json.loads(config.reinforce.to_json()),
        "rewards": json.loads(config.rewards.to_json()),
        "cold_start": stage_fingerprints(config)["adapt"],
        "synthesize": json.loads(config.synthesize.to_json()),
        "evaluate": json.loads(config.evaluate.to_json()),
        "evaluations": _EVALUATIONS.value,
        "rewards_are": "of whole sets",
    }
    path = workdir / "sample_efficiency" / f"{name.replace(' ', '_')}_{seed}.json"
    if path.exists():
        known = json.loads(path.read_text())
        if {field: known.get(field) for field in plan} == plan:
            return known
    _tell(f"{name}, seed {seed}: {iterations} iterations")
    record = {**plan, **reinforce(config, workdir, seed, iterations, measure)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return record


def _tell(progress: str) -> None:
    """Prints progress beside the log; standard output is for results."""
    print(progress, file=sys.stderr, flush=True)


def mean_curve(records: list[dict], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns passes [n] and the mean over seeds of a measure [n]."""
    values = np.array([[point[measure] for point in record["curve"]] for record in records])
    return np.array([point["passes"] for point in records[0]["curve"]]), values.mean(axis=0)


def passes_to(records: list[dict], reward: float) -> float | None:
    """Returns the work at which the mean curve first reaches a reward, between its points."""
    passes, rewards = mean_curve(records, "reward")
    reached = np.flatnonzero(rewards >= reward)
    if not len(reached):
        return None
    at = reached[0]
    if at == 0:
        return float(passes[0])
    share = (reward - rewards[at - 1]) / (rewards[at] - rewards[at - 1])
    return float(passes[at - 1] + share * (passes[at] - passes[at - 1]))


def draw(records: dict[str, list[dict]], title: str, path: Path) -> None:
    """Writes reward and held-out measures against work as a PNG."""
    panels = {"reward": "reward, deviations"}
    panels |= {f"held_out/{name}": f"held-out {name.replace('_', ' ')}" for name in MEASURES}
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    for axes, (measure, label) in zip(figure.subplots(2, 2).flat, panels.items()):
        for number, (name, runs) in enumerate(records.items()):
            color = COLORS[number % len(COLORS)]
            style = "-" if number < len(COLORS) else "--"
            passes, values = mean_curve(runs, measure)
            wide = 2.4 if name in (FULL, DEFAULT) else 1.2
            axes.plot(passes / 1000, values, style, color=color, label=name, linewidth=wide)
            for run in runs:
                points = [point[measure] for point in run["curve"]]
                axes.plot(passes / 1000, points, color=color, alpha=0.25, linewidth=0.8)
        axes.set_ylabel(label)
        axes.set_xlabel("forward passes of one sample, thousands")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_bytes(path, content.getvalue())


def main(argv: list[str]) -> None:
    """Measures every setting and seed, draws the curves and prints the ratios."""
    del argv
    config, workdir = _CONFIG.value, Path(_WORKDIR.value).absolute()
    validate(config)
    names = [name for name in SETTINGS if name in _SETTINGS.value or name in (FULL, DEFAULT)]
    unknown = set(_SETTINGS.value) - set(SETTINGS)
    if unknown:
        raise app.UsageError(f"unknown settings {sorted(unknown)}; known are {list(SETTINGS)}")
    set_up(config, workdir)
    for stage in ("pretrain", "adapt"):
        run_stage(stage, config, workdir)
    num_classes = len(load_target(config, workdir)[1].train_identities)
    measure = fixed_noise_measure(config, workdir, make_sampler(config, num_classes))
    full = config.reinforce.iterations * passes_per_iteration(with_setting(config, FULL))
    records = {name: [] for name in names}
    # By turns, so that what disturbs the machine disturbs all settings alike.
    for seed in range(_SEEDS.value):
        for name in names:
            records[name].append(measured(config, workdir, name, seed, full, measure))
    figure = Path(_FIGURE.value or workdir / "sample_efficiency.png")
    draw(records, config.name, figure)
    reward = mean_curve(records[FULL], "reward")[1].max()
    whole = passes_to(records[FULL], reward)
    rows = []
    for name, runs in records.items():
        work = passes_to(runs, reward)
        row = {
            "setting": name,
            "passes_per_iteration": runs[0]["passes_per_iteration"],
            "seconds_per_iteration": round(statistics.median(r["seconds"] for r in runs), 3),
            "highest_reward": round(float(mean_curve(runs, "reward")[1].max()), 3),
            "flops_to_equal_reward": None if work is None else round(work / whole, 3),
        }
        for measured_name in MEASURES:
            values = mean_curve(runs, f"held_out/{measured_name}")[1]
            row[measured_name] = [round(float(values[0]), 3), round(float(values[-1]), 3)]
        rows.append(row)
        print(json.dumps(row))
    (default,) = (row for row in rows if row["setting"] == DEFAULT)
    summary = {"config": config.name, "seeds": _SEEDS.value, "full_loop_reward": round(reward, 3)}
    print(json.dumps({**summary, "flops_to_equal_reward": default["flops_to_equal_reward"]}))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
