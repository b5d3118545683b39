"""Every shipped config is valid, every field is read by the program, every bad value is named."""

import ast
import inspect
import math
import runpy
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import rlsyn_jax
from rlsyn_jax.config import ConfigError, default_config
from rlsyn_jax.config_checks import validate
from rlsyn_jax.rewards.registry import resolve_reward

CONFIGS = Path(__file__).parents[1] / "configs"
# The arguments each config file takes; FOLDER stands for a path.
VARIANTS = {
    "casia_dit_xl2": ["full", "arcface", "ci"],
    "cuhk03": ["labeled", "detected", "ci"],
    "faces": ["orl", "lfw", "lfw_latents"],
    "folder": ["FOLDER"],
    "omniglot": ["small1", "small2"],
    "market1501": ["resnet50", "vit", "sbs", "ci"],
    "procedural_prior": [],
    "quickstart": ["full", "ci"],
}


def paths(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from paths(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def changed(*changes):
    """The default config with some dotted fields changed."""
    config = default_config()
    config.update_from_flattened_dict(dict(changes))
    return config


def test_the_table_of_configs_is_complete():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(VARIANTS)


@pytest.mark.parametrize(
    ("name", "variant"),
    [(name, variant) for name, variants in VARIANTS.items() for variant in [None, *variants]],
)
def test_every_config_is_valid_and_adds_no_field(tmp_path, name, variant):
    get_config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]
    arguments = [] if variant is None else [variant.replace("FOLDER", str(tmp_path))]
    config = get_config(*arguments)
    validate(config)
    assert set(paths(config)) <= set(paths(default_config()))
    if variant == "FOLDER":
        assert config.data.path == str(tmp_path) and config.data.num_identities == 0


@pytest.mark.parametrize(
    "name", ["casia_dit_xl2", "cuhk03", "faces", "market1501", "omniglot", "quickstart"]
)
def test_unknown_variants_are_refused_by_name(name):
    get_config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]
    with pytest.raises(ValueError, match=f"configs/{name}.py:huge is not known"):
        get_config("huge")


def test_a_config_file_cannot_misspell_a_field():
    config = default_config()
    with pytest.raises(AttributeError, match="stepz"):
        config.adapt.stepz = 3
    config.rewards.fairness = ConfigDict({"function": "a:b", "weight": 1.0, "options": {}})


class Reads(ast.NodeVisitor):
    """The (section, field) pairs that a module reads from a config.

    A section is followed from `config.section`, through names it is assigned to, to the attribute
    or key that is read from it. Where a section's name is a variable, every section counts; where a
    field's name is one, the fields of the package's dataclasses count.
    """

    def __init__(self, sections, dataclass_fields):
        self.sections, self.dataclass_fields = sections, dataclass_fields
        self.names, self.pairs = {"config": {""}}, set()

    def found(self, node):
        """Returns the sections that an expression may be; "" is the whole config."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, set())
        if isinstance(node, ast.Attribute):
            return self.below(self.found(node.value), {node.attr})
        if isinstance(node, ast.Subscript):
            names = {node.slice.value} if isinstance(node.slice, ast.Constant) else None
            return self.below(self.found(node.value), names)
        return set()

    def below(self, sections, names):
        inside = set()
        for section in sections:
            prefix = f"{section}." if section else ""
            below = {s for s in self.sections if s.rpartition(".")[0] == section and s}
            inside |= {s for s in below if names is None or s.removeprefix(prefix) in names}
            self.pairs |= {(section, name) for name in names or self.dataclass_fields}
        return inside

    def assign(self, target, value):
        if isinstance(target, ast.Name):
            self.names.setdefault(target.id, set()).update(self.found(value))
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts):
                self.assign(one, other)

    def visit_Assign(self, node):
        for target in node.targets:
            self.assign(target, node.value)
        self.generic_visit(node)

    def visit_Attribute(self, node):
        self.found(node)
        self.generic_visit(node)

    def visit_Subscript(self, node):
        self.found(node)
        self.generic_visit(node)


def sections_of(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield prefix + name
            yield from sections_of(value, f"{prefix}{name}.")


def is_dataclass(owner):
    return any("dataclasses.dataclass" in ast.unparse(d) for d in owner.decorator_list)


def unread_fields(config):
    """Returns the fields that no module reads, the two that define and check them aside."""
    package = Path(rlsyn_jax.__file__).parent
    trees = [
        ast.parse(path.read_text())
        for path in sorted(package.rglob("*.py"))
        if path not in (package / "config.py", package / "config_checks.py")
    ]
    dataclass_fields = {
        node.target.id
        for tree in trees
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef) and is_dataclass(owner)
        for node in owner.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    pairs = set()
    for tree in trees:
        reads = Reads(set(sections_of(config)), dataclass_fields)
        reads.visit(tree)
        reads.visit(tree)  # Names that are assigned below their use in the file.
        pairs |= reads.pairs
    options = set()
    for name, reward in config.rewards.items():
        parameters = inspect.signature(resolve_reward(reward.function)).parameters
        options |= {(f"rewards.{name}.options", option) for option in parameters}
    return [
        path
        for path in paths(config)
        if (path.rpartition(".")[0], path.rpartition(".")[2]) not in pairs | options
    ]


def test_every_field_is_read_by_the_program():
    assert unread_fields(default_config()) == []


@pytest.mark.parametrize(
    ("section", "name"),
    [("adapt", "unheard_of"), ("report", "size"), ("reinforce", "stem"), ("recognize", "eta")],
)
def test_a_field_that_nothing_reads_is_found(section, name):
    config = default_config()
    with config.unlocked():
        config[section][name] = 1
    assert unread_fields(config) == [f"{section}.{name}"]


def test_an_option_that_its_reward_does_not_take_is_found():
    config = default_config()
    with config.unlocked():
        config.rewards.coverage.options.colour = "red"
    assert unread_fields(config) == ["rewards.coverage.options.colour"]


def leaves(kind):
    """Fields of one type, but those of the rewards, whose functions check them."""
    config = default_config()
    flat = dict(zip(paths(config), (config_value(config, path) for path in paths(config))))
    return [p for p, v in flat.items() if type(v) is kind and not p.startswith("rewards.")]


def config_value(config, path):
    for part in path.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("path", leaves(float))
def test_no_fraction_may_be_negative_or_not_finite(path, value):
    with pytest.raises(ConfigError, match=f"config.{path} is {value}; it must be"):
        validate(changed((path, value)))


@pytest.mark.parametrize("path", leaves(int))
def test_no_whole_number_may_be_negative(path):
    with pytest.raises(ConfigError, match=f"config.{path} is -1; it must be"):
        validate(changed((path, -1)))


# Names and places, which are whatever the user says.
FREE = {"name", "data.path", "data.cache", "general_data.path", "general_data.cache",
        "pretrain.source", "pretrain.cache", "autoencoder.path", "autoencoder.reward_path",
        "autoencoder.cache", "extractor.weights", "extractor.judge_weights", "recognize.start",
        }  # fmt: skip


@pytest.mark.parametrize("path", sorted(set(leaves(str)) - FREE))
def test_no_choice_may_be_unknown(path):
    with pytest.raises(ConfigError, match=f"config.{path} is 'nonsense'; it must be"):
        validate(changed((path, "nonsense")))


@pytest.mark.parametrize(
    ("path", "value", "others"),
    [
        ("seed", 2**32, []),
        ("pretrain.source", "train", [("general_data.source", "none")]),
        (
            "reinforce.samples_per_start",
            4,
            [("reinforce.algorithm", "pathwise"), ("reinforce.eta", 0.0)],
        ),
        (
            "general_data.path",
            "people/../people",
            [
                ("general_data.source", "folder"),
                ("data.source", "folder"),
                ("data.path", "people"),
            ],
        ),
        (
            "recognize.start",
            "general",
            [("general_data.source", "none"), ("pretrain.source", "weights")],
        ),
        (
            "extractor.with_target",
            False,
            [
                ("general_data.source", "none"),
                ("pretrain.source", "weights"),
                ("recognize.start", "random"),
            ],
        ),
        (
            "adapt.class_rows",
            "embedding",
            [
                ("general_data.source", "none"),
                ("pretrain.source", "weights"),
                ("recognize.start", "random"),
            ],
        ),
        ("recognize.image_width", 8, []),
        ("pretrain.class_rows", "appearance", [("pretrain.source", "weights")]),
        ("pretrain.class_rows", "shared", [("pretrain.source", "weights")]),
        ("adapt.class_rows", "embedding", [("pretrain.class_rows", "shared")]),
        ("synthesize.prior_identities", 2, [("pretrain.class_rows", "shared")]),
        (
            "recognize.normalisation",
            "imagenet",
            [
                ("image.channels", 1),
                ("data.source", "folder"),
                ("data.path", "P"),
                ("general_data.source", "folder"),
                ("general_data.path", "Q"),
            ],
        ),
        ("recognize.decay_at", (0.05,), [("recognize.decay", "step")]),
        ("recognize.decay_at", ("half",), [("recognize.decay", "step")]),
        ("recognize.network", "vit_base_16", []),
        ("extractor.network", "osnet", []),
        ("fsdp", 0, []),
        ("image.channels", 2, []),
        ("image.channels", 1, []),
        ("image.size", 30, []),
        ("data.source", "tfds", []),
        ("data.path", "", [("data.source", "folder")]),
        ("data.num_identities", 1, []),
        ("data.images_per_identity", 3, []),
        ("general_data.identity_offset", 20, []),
        ("split.held_out_fraction", 1.0, []),
        ("split.closed_images", 0, []),
        ("generator.width", 130, []),
        ("generator.width", 132, [("generator.num_heads", 5)]),
        ("generator.num_timesteps", 1, []),
        ("pretrain.checkpoint_every", 0, []),
        ("pretrain.class_dropout", 1.5, []),
        ("adapt.learning_rate", 0.0, []),
        ("adapt.lora_rank", 0, []),
        ("adapt.lora_targets", ("qkv", "kqv"), []),
        ("reinforce.lora_targets", (), []),
        ("autoencoder.reward_path", "tiny", []),
        ("generator.clip_denoised", True, [("autoencoder.path", "vae")]),
        (
            "pretrain.rotation",
            5.0,
            [("autoencoder.path", "vae"), ("generator.clip_denoised", False)],
        ),
        ("image.width", 16, []),
        ("reinforce.eta", 0.0, []),
        ("reinforce.minibatches", 3, []),
        ("reinforce.samples_per_start", 3, []),
        ("reinforce.samples_per_start", 0, []),
        ("reinforce.algorithm", "pathwise", [("reinforce.kl_weight", 0.1)]),
        ("reinforce.algorithm", "pathwise", [("reinforce.inner_epochs", 2)]),
        ("reinforce.algorithm", "pathwise", [("reinforce.micro_batch", 8)]),
        ("reinforce.num_steps", 1, []),
        ("reinforce.num_steps", 2000, []),
        ("reinforce.clip_range", 0.0, []),
        ("reinforce.guidance_channels", 4, []),
        ("synthesize.guidance_channels", -1, []),
        ("synthesize.num_steps", 2000, []),
        ("synthesize.eta", 1.5, []),
        ("synthesize.candidates", 0, []),
        ("synthesize.strength", 0.0, []),
        ("synthesize.strength", 1.5, []),
        ("synthesize.num_steps", 11, [("synthesize.strength", 0.01), ("reinforce.num_steps", 10)]),
        ("reinforce.num_steps", 11, [("synthesize.strength", 0.01)]),
        ("recognize.arms", (), []),
        ("recognize.arms", ("real", "unreal"), []),
        ("recognize.arms", ("real", "real"), []),
        ("recognize.arms", (["real"],), []),
        ("recognize.random_start", (["real"],), []),
        ("privacy.attacks", (["membership"],), []),
        ("synthesize.exports", (["recordio"],), []),
        ("adapt.lora_targets", (["qkv"],), []),
        ("recognize.arcface_margin", 3.2, []),
        ("recognize.ema_decay", 1.1, []),
        ("recognize.split_classes", 0, []),
        ("recognize.rand_augment_operations", 0, []),
        ("recognize.rand_augment_magnitude", 31.0, []),
        ("recognize.synthetic_per_identity", 4, []),
        ("recognize.candidates_per_identity", 1, []),
        ("recognize.selection.keep_real", False, [("recognize.selection.rule", "adaptive")]),
        ("recognize.selection.threshold", 0.1, []),
        ("recognize.selection.method", "exact", [("recognize.dtype", "bfloat16")]),
        ("recognize.selection.warmup_steps", 200, []),
        ("recognize.selection.every", 0, []),
        ("recognize.nearest.images", 12, [("recognize.arms", ("real", "real_reinforced_nearest"))]),
        ("recognize.nearest.trade_off", 1.5, []),
        ("evaluate.verification_pairs", 30, []),
        ("evaluate.verification_pairs", 0, []),
        ("synthesize.exports", ("zip",), []),
        ("privacy.attacks", ("guessing",), []),
        ("privacy.quantile", 1.0, []),
        ("privacy.noise_levels", 999, []),
        ("privacy.step_error_timestep", 105, []),
        ("privacy.step_error_timestep", 990, []),
        ("privacy.extraction_duplicates", 17, []),
    ],
)
def test_values_that_cannot_work_are_named(path, value, others):
    with pytest.raises(ConfigError, match=f"config.{path} is .*; it must be"):
        validate(changed((path, value), *others))


def test_a_published_split_gives_the_prior_its_training_people():
    same = [("path", "market"), ("source", "market1501")]
    fields = [
        (f"{data}.{name}", value) for data in ("data", "general_data") for name, value in same
    ]
    validate(changed(*fields))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("semantic", {"wieght": 0.1}, "has .*'wieght'.*; it must have function, options"),
        ("own", {"function": "m:f", "weight": 1.0}, "has .*; it must have function, options"),
        ("own", 3, "has 3; it must have"),
        ("semantic", {"weight": math.nan}, "weight is nan; it must be a finite number"),
        ("semantic", {"weight": "1"}, "weight is '1'; it must be a finite number"),
        ("semantic", {"options": 1}, "options is 1; it must be a ConfigDict"),
        ("total", {"function": "m:f", "weight": 1.0, "options": {}}, "needs another name"),
        ("a/b", {"function": "m:f", "weight": 1.0, "options": {}}, "needs another name"),
    ],
)
def test_rewards_that_a_config_misspells_are_named(name, fields, message):
    config = default_config()
    with config.ignore_type():
        if isinstance(fields, dict) and name in config.rewards:
            for field, value in fields.items():
                config.rewards[name][field] = value
        else:
            config.rewards[name] = fields
    with pytest.raises(ConfigError, match=f"config.rewards.{name}.*{message}"):
        validate(config)


def test_some_reward_has_a_weight():
    weights = [(f"rewards.{name}.weight", 0.0) for name in default_config().rewards]
    with pytest.raises(ConfigError, match="no reward with a weight"):
        validate(changed(*weights))


def test_the_default_config_is_valid():
    validate(default_config())


def test_the_exact_step_is_refused_in_bfloat16_only_where_something_is_selected():
    for fields in (
        {"recognize.arms": ("real", "real_reinforced")},
        {"recognize.candidates_per_identity": 2},
        {"recognize.selection.method": "jvp"},
    ):
        validate(changed(("recognize.dtype", "bfloat16"), *fields.items()))
