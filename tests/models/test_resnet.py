import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.models.resnet import BasicBlock, ResNet, ResNet50, SmallResNet


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
