import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlsyn_jax.models.resnet import (
    BasicBlock,
    BottleneckBlock,
    GeneralizedMeanPooling,
    InstanceBatchNorm,
    ResNet,
    ResNet50,
    ResNet50IBN,
    SmallResNet,
)

# Compiling takes longer than running what is so small.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def count(model, shape):
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
    )
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])), variables


def test_resnet50_has_the_published_number_of_parameters():
    # 25,557,032 with the classifier of 1000 classes (2048 x 1000 + 1000); ours ends in a neck
    # of 2048 scales instead.
    parameters, variables = count(ResNet50(), (64, 32, 3))
    assert parameters == 25_557_032 - 2048 * 1000 - 1000 + 2048
    assert variables["params"]["neck"]["scale"].shape == (2048,)


def test_last_stride_keeps_resolution_and_parameters():
    apart = [count(ResNet50(last_stride=s), (64, 32, 3))[0] for s in (1, 2)]
    assert apart[0] == apart[1]


def test_shapes_dtype_and_statistics():
    for stem in ("large", "small", "strided"):
        model = ResNet((1, 1), BasicBlock, width=4, stem=stem, embedding_dim=6)
        images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
        variables = model.init(jax.random.key(1), images, train=False)
        (features, neck), updated = model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        assert features.shape == neck.shape == (4, 6) and features.dtype == jnp.float32
        np.testing.assert_allclose(neck.mean(axis=0), 0, atol=1e-5)
        changed = jax.tree.map(
            lambda a, b: bool((a != b).any()), updated["batch_stats"], variables["batch_stats"]
        )
        assert all(jax.tree.leaves(changed))


def test_images_are_embedded_alone_outside_training():
    model = SmallResNet(width=4, embedding_dim=6)
    images = jax.random.normal(jax.random.key(0), (3, 16, 16, 1))
    variables = model.init(jax.random.key(1), images, train=False)
    together = model.apply(variables, images, train=False)[1]
    alone = model.apply(variables, images[:1], train=False)[1]
    np.testing.assert_allclose(together[:1], alone, rtol=1e-5, atol=1e-6)


def test_instance_normalisation_has_no_statistics_and_as_many_parameters():
    plain, _ = count(ResNet50(), (64, 32, 3))
    ibn, variables = count(ResNet50IBN(), (64, 32, 3))
    assert ibn == plain
    stats = variables["batch_stats"]
    # 3 + 4 + 6 of 16 blocks.
    assert sum("InstanceBatchNorm_0" in stats.get(name, {}) for name in variables["params"]) == 13
    assert stats["BottleneckBlock_12"]["InstanceBatchNorm_0"].keys() == {"BN"}
    assert "InstanceBatchNorm_0" not in stats["BottleneckBlock_13"]


def test_the_first_half_of_the_channels_is_normalised_in_each_image():
    norm = functools.partial(nn.BatchNorm, use_running_average=False)
    model = InstanceBatchNorm(norm)
    x = 3 * np.random.default_rng(0).normal(size=(4, 5, 6, 8)).astype(np.float32)
    x += np.arange(4)[:, None, None, None]
    y, _ = quick_jit(model.init_with_output)(jax.random.key(1), x)
    first, second = np.split(np.asarray(y), 2, axis=-1)
    for got, values, axes in ((first, x[..., :4], (1, 2)), (second, x[..., 4:], (0, 1, 2))):
        centred = values - values.mean(axes, keepdims=True)
        expected = centred / np.sqrt(values.var(axes, keepdims=True) + 1e-5)
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_generalised_mean_lies_between_the_mean_and_the_maximum_and_learns_its_power():
    x = np.random.default_rng(0).uniform(size=(2, 3, 4, 5)).astype(np.float32)
    model = GeneralizedMeanPooling()

    def pool_by(p, x=x):
        return model.apply({"params": {"p": jnp.reshape(p, 1)}}, x)

    pool = quick_jit(pool_by)

    np.testing.assert_allclose(pool(1.0), x.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(pool(50.0), x.max(axis=(1, 2)), rtol=0.06)
    np.testing.assert_allclose(pool(3.0), np.cbrt((x**3).mean(axis=(1, 2))), rtol=1e-5)
    initial = quick_jit(model.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(initial["params"]["p"], [3.0])
    slope = quick_jit(jax.grad(lambda p: pool_by(p).sum()))(3.0)
    np.testing.assert_allclose(slope, (pool(3.01) - pool(2.99)).sum() / 0.02, rtol=1e-2)
    # Channels that are zero everywhere, as rectifiers leave them, give finite derivatives.
    gradients = quick_jit(jax.grad(lambda x, p: pool_by(p, x).sum(), argnums=(0, 1)))
    for gradient in gradients(np.zeros((1, 2, 2, 1), np.float32), 3.0):
        assert np.isfinite(gradient).all()


def test_all_parts_together_train():
    model = ResNet(
        (1, 1), BottleneckBlock, width=4, last_stride=1, instance_norm_stages=1, pooling="gem"
    )
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    variables = quick_jit(functools.partial(model.init, train=False))(jax.random.key(1), images)

    @quick_jit
    def gradients(params):
        def loss(params):
            both = {**variables, "params": params}
            (_, neck), _ = model.apply(both, images, train=True, mutable=["batch_stats"])
            return (neck * jnp.arange(4.0)[:, None]).sum()

        return jax.grad(loss)(params)

    found = gradients(variables["params"])
    assert np.isfinite(found["gem"]["p"]).all() and found["gem"]["p"].any()
    assert found["BottleneckBlock_0"]["InstanceBatchNorm_0"]["IN"]["scale"].any()


def test_fields_that_cannot_be_built_are_told():
    with pytest.raises(ValueError, match="pooling must be 'mean' or 'gem', got 'max'"):
        ResNet50(pooling="max")
    with pytest.raises(ValueError, match="instance_norm_stages must be 0 to 4, .* got 5"):
        ResNet50(instance_norm_stages=5)
