"""What a run will need of its devices, in memory and time, told without running it.

Nothing is compiled, no data are read, and no parameter is allocated: shapes are enough.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from rlsyn_jax.config import ConfigError
from rlsyn_jax.models.dit import DiT
from rlsyn_jax.models.dit_flops import forward_flops, training_flops
from rlsyn_jax.rl.iteration import PolicySettings
from rlsyn_jax.rl.memory import available_bytes
from rlsyn_jax.stages.data_counts import count_general, count_general_images, count_target
from rlsyn_jax.stages.denoising_memory import split_shapes, trained_part, training_memory
from rlsyn_jax.stages.generator import build_generator
from rlsyn_jax.stages.latent_space import sample_shape
from rlsyn_jax.stages.networks import feature_width
from rlsyn_jax.stages.policy import iteration_memory, policy_settings, policy_steps
from rlsyn_jax.stages.prior_classes import num_prior_classes
from rlsyn_jax.training.device_kinds import DeviceKind, kind_found, named_devices
from rlsyn_jax.training.memory import MARGIN, MemoryParts
from rlsyn_jax.training.meshes import make_abstract_mesh, own_device

UTILISATION = 0.4  # Of the peak rate, assumed; well-tuned transformers reach 0.3 to 0.6.
LARGEST_BATCH = 2**20  # More is not looked for.


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a plan reckons with.

    Attributes:
        name: in words.
        number: of all processes.
        memory: bytes that each may take, or None where that is not known.
        kind: of the table, or None where it is not there.
        on_cpu: programs are compiled by XLA's CPU compiler.
    """

    name: str
    number: int
    memory: float | None
    kind: DeviceKind | None
    on_cpu: bool

    def fit(self, parts: MemoryParts) -> bool:
        """Whether a prediction fits, with what it may be off; True where memory is not known."""
        return self.hold(parts.peak)

    def hold(self, number: float) -> bool:
        """The same of a number of bytes."""
        return self.memory is None or MARGIN * number <= self.memory


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One stage on one mesh.

    Attributes:
        name: of the stage.
        parts: memory on each device.
        least: bytes of it that no smaller batch saves.
        parameters: of the whole generator, and how many of them train.
        per_device: samples (or transitions) of one pass on each device, as configured.
        largest: the most of them that fit; 0 where not even the least does.
        with_remat: the same with config.remat=blocks.
        fits: whether the stage fits as it is configured; fits_with_remat: with config.remat=blocks.
        flops: of one step, on all devices.
        steps: of the stage; updates: the optimiser's, in a step.
    """

    name: str
    parts: MemoryParts
    least: int
    parameters: tuple[int, int]
    per_device: int
    largest: int
    with_remat: int
    fits: bool
    fits_with_remat: bool
    flops: int
    steps: int
    updates: int

    def seconds(self, devices: Devices, dtype: str) -> float | None:
        """Returns the time of a step, or None where the devices' rates are not known.

        Products at the assumed utilisation, and the state read and written once an update.
        """
        if devices.kind is None:
            return None
        compute = self.flops / (devices.number * UTILISATION * getattr(devices.kind, dtype))
        state = self.parts.parameters + self.parts.optimizer + self.parts.average
        return compute + self.updates * 2 * state / devices.kind.bandwidth


def find_devices(name: str) -> Devices:
    """Returns the devices that config.devices names, or those found where it is empty."""
    if name:
        kind, number = named_devices(name)
        share = f"{kind.usable / 2**30:.1f} of {kind.memory / 2**30:.1f} GiB each for JAX"
        return Devices(f"{name} (named; {share})", number, kind.usable, kind, False)
    device = jax.devices()[0]
    memory = available_bytes(own_device().device_set)
    free = "free memory not known" if memory is None else f"{memory / 2**30:.1f} GiB free on each"
    number, kind = jax.device_count(), kind_found(device.device_kind)
    found = f"{number} x {device.device_kind} (found; {free})"
    return Devices(found, number, memory, kind, device.platform == "cpu")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run on some devices.

    Attributes:
        devices: it reckons with.
        fsdp: of the mesh: the config's, or the next one whose parameters and optimiser fit.
        smallest_fsdp: the smallest of all whose parameters and optimiser fit.
        stages: that have something to plan.
        problems: what is wrong with batches on so many devices, in words.
    """

    devices: Devices
    fsdp: int
    smallest_fsdp: int
    stages: list[StagePlan]
    problems: list[str]


def make_plan(config: ConfigDict) -> Plan:
    """Returns the plan of a run's pretrain, adapt and reinforce.

    Raises:
        ConfigError: the data cannot be counted, or config.fsdp does not divide the devices.
    """
    devices = find_devices(config.devices)
    if devices.number % config.fsdp:
        raise ConfigError(
            f"config.fsdp is {config.fsdp}; it must divide the number of devices, {devices.number}"
        )
    makers, problems = [], []
    for section in ("pretrain", "adapt", "reinforce"):
        if section == "pretrain" and config.pretrain.source != "train":
            continue
        if section == "adapt" and config.adapt.steps == 0:
            continue
        try:
            _check_batch(config, section, devices)
        except ConfigError as error:
            problems.append(str(error))
            if section == "reinforce":
                continue
        makers.append(_maker(config, section, devices))
    fsdp, stages = _smallest_split(makers, config.fsdp, devices)
    smallest = fsdp if config.fsdp == 1 else _smallest_split(makers, 1, devices)[0]
    return Plan(devices, fsdp, smallest, stages, problems)


def _check_batch(config: ConfigDict, section: str, devices: Devices) -> None:
    """Checks that the devices can share a section's batch."""
    if section == "reinforce":
        policy_settings(config, count_target(config)[0], policy_steps(config)[2], devices.number)
    elif config[section].batch_size % devices.number:
        raise ConfigError(
            f"config.{section}.batch_size is {config[section].batch_size}; it must be divisible by "
            f"the number of devices, {devices.number}"
        )


def _smallest_split(makers: list, least: int, devices: Devices) -> tuple[int, list[StagePlan]]:
    """Returns the smallest fsdp of at least so many whose parameters and optimiser fit."""
    stages = []
    for fsdp in range(least, devices.number + 1):
        if devices.number % fsdp:
            continue
        stages = [make(fsdp) for make in makers]
        if all(devices.hold(stage.least) for stage in stages):
            break
    return fsdp, stages


def _maker(config: ConfigDict, section: str, devices: Devices) -> Callable[[int], StagePlan]:
    """Returns a function fsdp -> plan of a stage, for which people are counted once."""
    if section == "reinforce":
        num_classes, images = count_target(config)
        bank = (images, feature_width(config))
        return lambda fsdp: _reinforcement(config, devices, fsdp, num_classes, bank)
    num_classes, num_images = (
        (num_prior_classes(config, count_general(config)), count_general_images(config))
        if section == "pretrain"
        else (count_target(config)[0], 0)
    )
    return lambda fsdp: _training(config, section, devices, fsdp, num_classes, num_images)


def _training(
    config, section, devices: Devices, fsdp: int, num_classes: int, num_images: int
) -> StagePlan:
    training, model = config[section], build_generator(config, num_classes)
    mesh = make_abstract_mesh(devices.number, fsdp)
    predict = training_memory(
        config, section, num_classes, mesh, on_cpu=devices.on_cpu, num_images=num_images
    )
    per_device = math.ceil(training.batch_size / devices.number)

    def largest(model: DiT) -> int:
        return largest_fitting(lambda batch: devices.fit(predict(model, batch)))

    again = model.clone(remat="blocks")
    flops = training_flops(model, sample_shape(config), trained_part(config, section))
    return StagePlan(
        name=section,
        parts=predict(model, per_device),
        least=predict(again, 1).peak,
        parameters=_parameters(config, section, num_classes),
        per_device=per_device,
        largest=largest(model),
        with_remat=largest(again),
        fits=devices.fit(predict(model, per_device)),
        fits_with_remat=devices.fit(predict(again, per_device)),
        flops=training.batch_size * flops,
        steps=training.steps,
        updates=1,
    )


def _reinforcement(config, devices: Devices, fsdp: int, num_classes: int, bank) -> StagePlan:
    model = build_generator(config, num_classes)
    _, _, num_trained_steps, _ = policy_steps(config)
    settings = policy_settings(config, num_classes, num_trained_steps, devices.number)
    mesh = make_abstract_mesh(devices.number, fsdp)
    predict = iteration_memory(
        config, num_classes, bank, mesh, num_trained_steps, on_cpu=devices.on_cpu
    )
    transitions = settings.batch_size // settings.minibatches * num_trained_steps
    choices = [
        size
        for size in range(devices.number, transitions + 1, devices.number)
        if transitions % size == 0
    ]

    if settings.algorithm == "pathwise":
        choices = [settings.micro_batch]  # All samples are one.

    def largest(model: DiT) -> int:
        fitting = [
            size
            for size in choices
            if devices.fit(predict(dataclasses.replace(settings, micro_batch=size), model))
        ]
        return max(fitting, default=0) // devices.number

    again = model.clone(remat="blocks")
    return StagePlan(
        name="reinforce",
        parts=predict(settings, model),
        least=predict(settings, model).arguments + predict(settings, model).gradients,
        parameters=_parameters(config, "reinforce", num_classes),
        per_device=settings.micro_batch // devices.number,
        largest=largest(model),
        with_remat=largest(again),
        fits=devices.fit(predict(settings, model)),
        fits_with_remat=devices.fit(predict(settings, again)),
        flops=iteration_flops(
            settings,
            model,
            config.reinforce.trainable,
            num_trained_steps,
            config.reinforce.num_steps,
        ),
        steps=config.reinforce.iterations,
        updates=settings.inner_epochs * settings.minibatches,
    )


def iteration_flops(
    settings: PolicySettings, model: DiT, trainable: str, num_trained_steps: int, num_steps: int
) -> int:
    """Returns the FLOPs of the generator in one iteration: rollout, update and divergence.

    Rewards and DPOK's value function are left out, whose networks are small beside it; with latents
    the decoder's are not.

    Args:
        settings: of the iteration.
        model: the generator.
        trainable: which part of it trains.
        num_trained_steps: steps of a rollout that train.
        num_steps: of a rollout.
    """
    forward = forward_flops(model, settings.image_shape)
    update = training_flops(model, settings.image_shape, trainable)
    steps = num_steps * settings.batch_size
    guided = settings.guidance_scale != 1
    both = 2 if guided else 1
    if guided and settings.unconditional == "trained":
        update *= 2
    elif guided:
        # Through the steps it hands the gradient of its input on.
        update += (2 if settings.algorithm == "pathwise" else 1) * forward
    if settings.kl_weight > 0:
        update += both * forward
    if settings.algorithm == "pathwise":
        # Each step is computed twice: on the way to the image, and for its backward pass.
        return steps * (both * forward + update)
    transitions = settings.inner_epochs * num_trained_steps * settings.batch_size
    return steps * both * forward + transitions * update


def largest_fitting(fits: Callable[[int], bool]) -> int:
    """Returns the largest number that fits, up to a limit, by bisection; 0 where 1 does not."""
    low, high = 0, 1
    while high < LARGEST_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _parameters(config: ConfigDict, section: str, num_classes: int) -> tuple[int, int]:
    shapes = split_shapes(config, num_classes, section)
    trained, frozen = (sum(leaf.size for leaf in jax.tree.leaves(part)) for part in shapes)
    return trained + frozen, trained
