"""A run's plan as a text to read."""

from __future__ import annotations

from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.stages.latent_space import sample_shape
from rlsyn_jax.stages.plan import LARGEST_BATCH, UTILISATION, Devices, Plan, StagePlan, make_plan
from rlsyn_jax.stages.plan_samples import plan_samples
from rlsyn_jax.training.memory import MARGIN

_ROWS = {
    "parameters": "parameters",
    "optimizer": "optimiser state",
    "average": "average",
    "bank": "references and starts",
    "value": "value function",
    "decoder": "decoder",
    "batch": "batch",
    "gradients": "gradients",
    "activations": "activations",
    "trajectories": "trajectories",
}


def describe(config: ConfigDict) -> str:
    """Returns the plan of a run, as lines to print.

    Raises:
        ConfigError: see plan.make_plan.
    """
    plan = make_plan(config)
    lines = [
        f"plan of {config.name!r}",
        f"devices:    {plan.devices.name}",
        f"mesh:       {_mesh(config, plan)}",
        f"generator:  {_generator(config)}",
        "",
        *_table(config, plan.devices, plan.stages),
        "",
        *_samples(config, plan.devices),
        *(f"problem: {problem}" for problem in plan.problems),
        *_problems_of_memory(plan.stages),
        *_remarks(config, plan),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _generator(config: ConfigDict) -> str:
    generator, (height, width, channels) = config.generator, sample_shape(config)
    tokens = (height // generator.patch_size) * (width // generator.patch_size)
    return (
        f"{generator.depth} blocks of width {generator.width} on {height} x {width} x {channels}, "
        f"{tokens} tokens a sample, {generator.dtype}, remat {config.remat}"
    )


def _mesh(config: ConfigDict, plan: Plan) -> str:
    mesh = f"{plan.devices.number // plan.fsdp} data x {plan.fsdp} fsdp"
    if plan.fsdp != config.fsdp:
        return (
            f"{mesh}: set --config.fsdp={plan.fsdp}; split over {config.fsdp}, parameters and "
            "optimiser do not fit"
        )
    if plan.smallest_fsdp < plan.fsdp:
        return f"{mesh}; parameters and optimiser fit with --config.fsdp={plan.smallest_fsdp} too"
    return mesh


def _table(config: ConfigDict, devices: Devices, stages: list[StagePlan]) -> list[str]:
    """Returns the lines of the table, a column a stage."""

    def size(number: float) -> str:
        return f"{number / 2**20:,.1f}" if number else "-"

    def batch(number: int) -> str:
        if devices.memory is None:
            return "not known"
        return f"{number:,}" if number < LARGEST_BATCH - 1 else "any"

    def fits(stage: StagePlan) -> str:
        if devices.memory is None:
            return "not known"
        return "yes" if stage.fits else "with remat" if stage.fits_with_remat else "no"

    def duration(seconds: float | None) -> str:
        return "not known" if seconds is None else _duration(seconds)

    seconds = [stage.seconds(devices, config.generator.dtype) for stage in stages]
    rows = [["MiB of a device", *(stage.name for stage in stages)]]
    for name, title in _ROWS.items():
        rows.append([title, *(size(getattr(stage.parts, name)) for stage in stages)])
    rows += [
        ["total", *(size(stage.parts.peak) for stage in stages)],
        ["fits", *map(fits, stages)],
        [],
        ["parameters of the generator", *(f"{stage.parameters[0]:,}" for stage in stages)],
        ["  of which train", *(f"{stage.parameters[1]:,}" for stage in stages)],
        ["micro-batch of a device", *(f"{stage.per_device:,}" for stage in stages)],
        ["  largest that fits", *(batch(stage.largest) for stage in stages)],
        ["  with remat", *(batch(stage.with_remat) for stage in stages)],
        ["FLOPs of a step", *(f"{stage.flops:.3g}" for stage in stages)],
        ["steps", *(f"{stage.steps:,}" for stage in stages)],
        ["time of a step", *map(duration, seconds)],
        [
            "time of the stage",
            *(duration(s and s * stage.steps) for s, stage in zip(seconds, stages)),
        ],
    ]
    width = max(len(row[0]) for row in rows if row)
    return [
        f"{row[0]:<{width}}" + "".join(f"{cell:>18}" for cell in row[1:]) if row else ""
        for row in rows
    ]


def _samples(config: ConfigDict, devices: Devices) -> list[str]:
    """Returns the lines of what stage synthesize draws."""
    try:
        samples = plan_samples(config)
    except ConfigError:
        return []  # Of reinforcement, and among the problems.
    seconds = samples.seconds(devices, config.generator.dtype)
    sets = ", ".join(f"{name} {number:,}" for name, number in samples.drawn.items())
    return [
        f"samples:    {sum(samples.drawn.values()):,} in {config.synthesize.num_steps} steps "
        f"({sets})",
        f"            {samples.flops:.3g} FLOPs, time "
        f"{'not known' if seconds is None else _duration(seconds)}"
        " (where all devices are of one process; each of several draws all)",
        "",
    ]


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"


def _problems_of_memory(stages: list[StagePlan]) -> list[str]:
    lines = []
    for stage in stages:
        if stage.fits:
            continue
        size = "micro_batch, identities, samples" if stage.name == "reinforce" else "batch_size"
        if stage.parts.decoder:
            size += ", config.autoencoder.batch_size"
        remat = "set --config.remat=blocks, or " if stage.fits_with_remat else ""
        lines.append(
            f"problem: {stage.name} does not fit; {remat}lower config.{stage.name}.{size}, or "
            "raise config.fsdp"
        )
    return lines


def _remarks(config: ConfigDict, plan: Plan) -> list[str]:
    """Returns how far the figures can be believed, and what they leave out."""
    devices, dtype = plan.devices, config.generator.dtype
    lines = []
    if devices.memory is not None and config.remat == "none" and all(s.fits for s in plan.stages):
        lines.append("remat:  not needed")
    if devices.on_cpu:
        lines.append("memory: within 15 % of what XLA's CPU compiler lays out")
    else:
        lines += [
            "memory: an estimate, by what XLA's CPU compiler lays out (within 15 % there), in the",
            "        generator's dtype; other compilers use buffers otherwise, mostly better",
        ]
    lines.append(f"        what fits leaves {MARGIN - 1:.0%} of itself free")
    if config.reinforce.algorithm == "pathwise":
        lines.append("        without what rewards' own networks keep for their backward pass")
    if devices.kind is None:
        lines.append("time:   not known, since the peak rate of these devices is not")
    else:
        lines.append(
            f"time:   an estimate, at an assumed {UTILISATION:.0%} of the peak rate of "
            f"{getattr(devices.kind, dtype):.3g} FLOP/s ({dtype})"
        )
    return [
        *lines,
        "FLOPs:  of the generator's matrix products, two a multiply-add, on all devices;",
        "        compiling, input, rewards and held-out measures come on top",
    ]
