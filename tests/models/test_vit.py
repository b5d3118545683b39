"""The vision transformer against timm, torchvision and a reading of it in plain PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rlsyn_jax.models.import_recognizers import recognizer_from_torch, vit_from_torch
from rlsyn_jax.models.import_weights import main
from rlsyn_jax.models.vit import VIT_SIZES, ViT, patch_grid
from rlsyn_jax.training.checkpoints import restore_config, restore_params

WIDTH, DEPTH, HEADS, PATCH = 24, 2, 3, 4
SMALL = ViT(patch_size=PATCH, width=WIDTH, depth=DEPTH, num_heads=HEADS)


def relative_error(got, expected):
    return np.max(np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1))


def random_images(height=12, width=12, seed=1):
    random = np.random.default_rng(seed)
    return random.normal(size=(2, 3, height, width)).astype(np.float32)


def embed(model, variables, images):
    """Features and neck of channels-first images, without training."""
    run = jax.jit(functools.partial(model.apply, train=False))
    return run(variables, np.moveaxis(images, 1, -1))


def timm_state_dict(patches=9, seed=0):
    """Weights under timm's names; none is zero."""
    random = np.random.default_rng(seed)
    shapes = {"patch_embed.proj": (WIDTH, 3, PATCH, PATCH), "norm": (WIDTH,), "head": (5, WIDTH)}
    for index in range(DEPTH):
        block = f"blocks.{index}"
        shapes |= {
            f"{block}.norm1": (WIDTH,),
            f"{block}.attn.qkv": (3 * WIDTH, WIDTH),
            f"{block}.attn.proj": (WIDTH, WIDTH),
            f"{block}.norm2": (WIDTH,),
            f"{block}.mlp.fc1": (2 * WIDTH, WIDTH),
            f"{block}.mlp.fc2": (WIDTH, 2 * WIDTH),
        }
    tensors = {
        "cls_token": random.normal(size=(1, 1, WIDTH)),
        "pos_embed": random.normal(size=(1, 1 + patches, WIDTH)),
    }
    for name, shape in shapes.items():
        scale = 2 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.5
        tensors[f"{name}.weight"] = scale * random.normal(size=shape) + (len(shape) == 1)
        tensors[f"{name}.bias"] = 0.3 * random.normal(size=shape[:1])
    return {name: np.float32(value) for name, value in tensors.items()}


def torchvision_names(tensors, older=False):
    """The same weights under torchvision's names."""
    replacements = {
        "patch_embed.proj": "conv_proj",
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "blocks.": "encoder.layers.encoder_layer_",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "self_attention.in_proj_",
        "attn.proj": "self_attention.out_proj",
        "mlp.fc1": "mlp.linear_1" if older else "mlp.0",
        "mlp.fc2": "mlp.linear_2" if older else "mlp.3",
        "head.": "heads.head.",
    }
    renamed = {}
    for name, value in tensors.items():
        for ours, theirs in replacements.items():
            name = name.replace(ours, theirs)
        renamed["encoder.ln." + name[5:] if name.startswith("norm.") else name] = value
    return renamed


def plain_forward(tensors, images, stride=PATCH):
    """The published network's class token in plain PyTorch, in double precision."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    t = {name: torch.tensor(value, dtype=torch.float64) for name, value in tensors.items()}

    def linear(name, x):
        return functional.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def norm(name, x):
        parts = (t[f"{name}.weight"], t[f"{name}.bias"])
        return functional.layer_norm(x, (WIDTH,), *parts, eps=1e-6)

    patches = functional.conv2d(
        torch.tensor(images).double(),
        t["patch_embed.proj.weight"],
        t["patch_embed.proj.bias"],
        stride=stride,
    )
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([t["cls_token"].expand(len(x), -1, -1), x], dim=1) + t["pos_embed"]
    for index in range(DEPTH):
        block = f"blocks.{index}"
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x))
        query, key, value = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2)
        )
        weights = (query @ key.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        x = x + linear(f"{block}.attn.proj", (weights @ value).transpose(1, 2).flatten(2))
        hidden = functional.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + linear(f"{block}.mlp.fc2", hidden)
    return norm("norm", x)[:, 0].numpy()


def test_small_network_gives_the_numbers_of_plain_torch():
    tensors, images = timm_state_dict(), random_images()
    model, variables = recognizer_from_torch(tensors, num_heads=HEADS)
    assert model == SMALL.clone(mlp_ratio=2.0)
    features, neck = embed(model, variables, images)
    expected = plain_forward(tensors, images)
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    assert relative_error(features, expected) < 1e-5
    np.testing.assert_allclose(neck, features, rtol=1e-4)  # The last normalisation is fresh.


def test_overlapping_patches_of_oblong_images_give_the_numbers_of_plain_torch():
    images = random_images(13, 10)
    tensors = timm_state_dict(patches=4 * 3)  # Strides of 3; no pixel is left over.
    variables = vit_from_torch(tensors, image_size=(13, 10), patch_stride=3)
    model = SMALL.clone(mlp_ratio=2.0, patch_stride=3)
    expected = plain_forward(tensors, images, stride=3)
    assert relative_error(embed(model, variables, images)[0], expected) < 1e-5


@pytest.mark.parametrize("older", [False, True])
def test_torchvision_names_give_the_same_variables(older):
    tensors = timm_state_dict()
    expected = vit_from_torch(tensors)
    got = vit_from_torch(torchvision_names(tensors, older))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_torchvision_network_gives_the_same_numbers():
    torch = pytest.importorskip("torch")
    # A torchvision that was built for another torch fails with a RuntimeError.
    models = pytest.importorskip("torchvision.models", exc_type=(ImportError, RuntimeError))
    model = models.VisionTransformer(
        image_size=12,
        patch_size=PATCH,
        num_layers=DEPTH,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        mlp_dim=2 * WIDTH,
        num_classes=5,
    ).eval()
    tensors, images = timm_state_dict(), random_images()
    renamed = {name: torch.tensor(value) for name, value in torchvision_names(tensors).items()}
    model.load_state_dict(renamed)
    model.heads = torch.nn.Identity()
    with torch.no_grad():
        expected = model(torch.tensor(images)).numpy()
    features, _ = embed(SMALL.clone(mlp_ratio=2.0), vit_from_torch(model.state_dict()), images)
    assert relative_error(features, expected) < 1e-4


def import_timm():
    pytest.importorskip("torch")
    # A torchvision that was built for another torch fails with a RuntimeError.
    return pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))


@pytest.mark.parametrize("image_size", [None, (24, 8)])
def test_timm_network_gives_the_same_numbers(image_size):
    timm = import_timm()
    import torch

    network = timm.models.vision_transformer.VisionTransformer
    sizes = {"patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    model = network(img_size=image_size or 12, **sizes, mlp_ratio=2, num_classes=5).eval()
    tensors = timm_state_dict(patches=12 if image_size else 9)
    model.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()})
    images = random_images(*(image_size or (12, 12)))
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(torch.tensor(images)), True).numpy()
    variables = vit_from_torch(model.state_dict(), image_size=image_size)
    features, _ = embed(SMALL.clone(mlp_ratio=2.0), variables, images)
    assert relative_error(features, expected) < 1e-4


@pytest.mark.slow
def test_base_network_gives_the_numbers_of_timm():
    timm = import_timm()
    import torch

    torch.manual_seed(0)
    network = timm.create_model("vit_base_patch16_224", num_classes=10).eval()
    with torch.no_grad():  # Biases and the class token begin at zero.
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    images = random_images(224, 224)
    with torch.no_grad():
        tokens = network.forward_features(torch.tensor(images))
        expected = network.forward_head(tokens, pre_logits=True).numpy()
    model, variables = recognizer_from_torch(network.state_dict())
    assert model == ViT()
    assert relative_error(embed(model, variables, images)[0], expected) < 1e-4


@pytest.mark.parametrize(("image_size", "rows", "columns"), [((32, 16), 8, 4), ((12, 8), 3, 2)])
def test_positions_are_interpolated_as_by_torch(image_size, rows, columns):
    torch = pytest.importorskip("torch")
    tensors = timm_state_dict(patches=25)
    got = vit_from_torch(tensors, image_size=image_size)["params"]["pos_embed"]
    square = torch.tensor(tensors["pos_embed"][0, 1:].reshape(1, 5, 5, WIDTH)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(square, (rows, columns), mode="bilinear")
    expected = expected.permute(0, 2, 3, 1).reshape(rows * columns, WIDTH)
    np.testing.assert_allclose(got[0, 1:], expected, atol=1e-5)
    np.testing.assert_array_equal(got[:, 0], tensors["pos_embed"][:, 0])
    same = vit_from_torch(tensors, image_size=(20, 20))["params"]["pos_embed"]
    np.testing.assert_array_equal(same, tensors["pos_embed"])


def test_variables_are_exactly_those_of_the_module():
    tensors = timm_state_dict()
    variables = vit_from_torch(tensors, image_size=(16, 8))
    images = jnp.zeros((1, 16, 8, 3))
    model = SMALL.clone(mlp_ratio=2.0)
    expected = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def test_a_network_of_transreid_brings_its_neck():
    tensors = {f"base.{name}": value for name, value in timm_state_dict().items()}
    tensors["base.fc.weight"], tensors["base.fc.bias"] = np.zeros((9, WIDTH)), np.zeros(9)
    del tensors["base.head.weight"], tensors["base.head.bias"]
    random = np.random.default_rng(3)
    neck = {
        "weight": random.normal(size=WIDTH),
        "running_mean": random.normal(size=WIDTH),
        "running_var": random.uniform(1, 2, WIDTH),
        "bias": np.zeros(WIDTH),
    }
    tensors |= {f"bottleneck.{name}": np.float32(value) for name, value in neck.items()}
    tensors["bottleneck.num_batches_tracked"] = np.array(3)
    tensors["classifier.weight"] = np.zeros((7, WIDTH), np.float32)
    variables = vit_from_torch({f"module.{name}": value for name, value in tensors.items()})
    np.testing.assert_allclose(variables["params"]["neck"]["scale"], neck["weight"], rtol=1e-6)
    stats = variables["batch_stats"]["neck"]
    np.testing.assert_allclose(stats["mean"], neck["running_mean"], rtol=1e-6)
    np.testing.assert_allclose(stats["var"], neck["running_var"], rtol=1e-6)
    tensors["bottleneck.bias"] = np.ones(WIDTH, np.float32)
    with pytest.raises(ValueError, match="value: bottleneck.bias is not 0 throughout"):
        vit_from_torch(tensors)
    tensors["cls_token"] = tensors["base.cls_token"]
    with pytest.raises(ValueError, match="given twice"):
        vit_from_torch(tensors)


def test_everything_that_is_wrong_is_listed_at_once():
    tensors = timm_state_dict(patches=11)
    del tensors["blocks.1.attn.proj.bias"], tensors["cls_token"]
    tensors["blocks.0.attn.qkv.weight"] = np.zeros((3 * WIDTH, WIDTH - 1), np.float32)
    tensors["norm.bias"] = np.zeros(3, np.float32)
    tensors["blocks.0.norm1.bias"] = np.full(WIDTH, np.inf, np.float32)
    tensors["dist_token"] = np.zeros(3, np.float32)
    tensors["blocks.1.mlp.fc2.bias"] = np.zeros(WIDTH, np.int32)
    with pytest.raises(ValueError) as error:
        vit_from_torch(tensors, image_size=(16, 8))
    headline, *lines = str(error.value).splitlines()
    assert headline == "these are not the weights of a vision transformer with names of timm " + (
        "(8 faults):"
    )
    assert sorted(line.strip() for line in lines) == [
        "missing: blocks.1.attn.proj.bias",
        "missing: cls_token",
        f"shape: blocks.0.attn.qkv.weight is ({3 * WIDTH}, {WIDTH - 1}), must be "
        f"({3 * WIDTH}, {WIDTH})",
        "shape: norm.bias is (3), must be (24)",
        "shape: pos_embed is (1, 12, 24), must be (1, 1 + n * n, 24), or (1, 9, 24) for images of "
        "16 x 8",
        "type: blocks.1.mlp.fc2.bias is int32, must be floating",
        "unknown: dist_token",
        "value: blocks.0.norm1.bias holds numbers that are not finite",
    ]
    older = torchvision_names(timm_state_dict(), older=True)
    del older["encoder.layers.encoder_layer_0.mlp.linear_1.bias"]
    with pytest.raises(ValueError, match="missing: encoder.layers.encoder_layer_0.mlp.linear_1"):
        vit_from_torch(older)


def test_the_command_keeps_settings_and_variables(tmp_path):
    tensors, source = timm_state_dict(), tmp_path / "vit.safetensors"
    save_file(tensors, source)
    options = ["--num-heads", "3", "--patch-stride", "3", "--image-size", "20", "12"]
    main([str(source), str(tmp_path / "vit"), *options])
    record = restore_config(tmp_path / "vit")
    assert record["network"] == "ViT" and record["image"] == {"size": [20, 12], "channels": 3}
    assert ViT(**record["backbone"]) == SMALL.clone(mlp_ratio=2.0, patch_stride=3)
    expected = vit_from_torch(tensors, image_size=(20, 12), patch_stride=3)
    for collection in ("params", "batch_stats"):
        got = restore_params(tmp_path / "vit", collection=collection)
        jax.tree.map(np.testing.assert_array_equal, got, expected[collection])
    main([str(source), str(tmp_path / "square"), "--num-heads", "3"])
    assert restore_config(tmp_path / "square")["image"]["size"] == [12, 12]
    with pytest.raises(SystemExit, match="error: image of 21 x 12 does not divide into patches"):
        main([str(source), str(tmp_path / "out"), *options[:2], "--image-size", "21", "12"])


def test_a_gap_in_the_blocks_is_told():
    tensors = timm_state_dict()
    tensors["blocks.3.attn.qkv.bias"] = tensors["blocks.0.attn.qkv.bias"]
    with pytest.raises(ValueError, match="missing: blocks.2.norm1.weight"):
        vit_from_torch(tensors)


def test_settings_that_do_not_fit_are_told():
    tensors = timm_state_dict()
    with pytest.raises(ValueError, match="width 24 is of no published size; give --num-heads"):
        recognizer_from_torch(tensors)
    with pytest.raises(ValueError, match="width 24 is not divisible by 5 heads"):
        recognizer_from_torch(tensors, num_heads=5)
    with pytest.raises(ValueError, match="18 x 8 does not divide into patches of 4"):
        vit_from_torch(tensors, image_size=(18, 8))
    with pytest.raises(ValueError, match="3 x 8 holds no patch of 4 pixels"):
        vit_from_torch(tensors, image_size=(3, 8), patch_stride=2)
    assert patch_grid((256, 128), 16) == (16, 8)
    assert patch_grid((256, 128), 16, 12) == (21, 10)  # As TransReID counts them: 210 patches.
    images = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match="not divisible by num_heads 5"):
        SMALL.clone(num_heads=5).init(jax.random.key(0), images, train=False)


def test_base_has_the_published_number_of_parameters():
    # 86,567,656 with the classifier of 1000 classes (768 x 1000 + 1000); ours ends in a neck of
    # 768 scales instead. Blocks are counted by their difference, since tracing them takes time.
    images = jnp.zeros((1, 224, 224, 3))

    def count(depth):
        model = ViT(**VIT_SIZES["ViT-B"]).clone(depth=depth)
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
        return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))

    one = count(1)
    assert one + 11 * (count(2) - one) == 86_567_656 - 768 * 1000 - 1000 + 768


def test_dropping_is_drawn_from_the_dropout_key_and_only_in_training():
    # The first block's rate is 0, and the second's so high that no branch of it stays.
    model, images = SMALL.clone(drop_path_rate=1 - 1e-6), random_images()
    variables = vit_from_torch(timm_state_dict())
    model = model.clone(mlp_ratio=2.0)

    def train(model, key):
        run = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        run = jax.jit(run)
        return run(variables, np.moveaxis(images, 1, -1), rngs={"dropout": key})

    (features, _), updated = train(model, jax.random.key(2))
    assert updated["batch_stats"]["neck"]["mean"].any()
    first = {**variables["params"]}
    del first["blocks_1"]
    alone, _ = embed(model.clone(depth=1), {**variables, "params": first}, images)
    np.testing.assert_allclose(features, alone, rtol=1e-4, atol=1e-5)
    everything, _ = embed(model, variables, images)  # Nothing is dropped outside of training.
    assert relative_error(features, everything) > 0.1
    dropping = model.clone(drop_path_rate=0.0, dropout_rate=0.5)
    one, other = (train(dropping, jax.random.key(seed))[0][0] for seed in (2, 3))
    assert relative_error(one, other) > 0.01 and relative_error(one, everything) > 0.01


def test_bfloat16_computes_near_float32_and_returns_float32():
    images = random_images()
    variables = vit_from_torch(timm_state_dict())
    model = SMALL.clone(mlp_ratio=2.0)
    exact, _ = embed(model, variables, images)
    features, neck = embed(model.clone(dtype=jnp.bfloat16), variables, images)
    assert features.dtype == neck.dtype == jnp.float32
    assert 1e-4 < relative_error(features, exact) < 0.1
