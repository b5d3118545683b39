"""FLOPs by formula, against XLA's count and the published figures."""

import jax
import jax.numpy as jnp
import pytest

from rlsyn_jax.models.dit import DiT, dit_config
from rlsyn_jax.models.dit_flops import forward_flops, training_flops


@pytest.mark.parametrize(
    ("name", "published"),
    # Table 4 of Peebles & Xie, 2212.09748: giga-multiply-adds on latents of 32 x 32 x 4.
    [("DiT-S/8", 0.36), ("DiT-B/4", 5.56), ("DiT-L/2", 80.71), ("DiT-XL/2", 118.64)],
)
def test_published_sizes_have_their_published_flops(name, published):
    model = DiT(num_classes=1000, learn_sigma=True, **dit_config(name))
    assert forward_flops(model, (32, 32, 4)) / 2e9 == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("learn_sigma", [False, True])
@pytest.mark.parametrize("patch_size", [2, 8])
def test_xla_counts_the_same(learn_sigma, patch_size):
    model = DiT(num_classes=3, patch_size=patch_size, width=256, depth=2, learn_sigma=learn_sigma)
    shape, batch = (32, 24, 3), 2
    x = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    label = jax.ShapeDtypeStruct((batch,), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), x, label, label)

    def forward(params, x, label):
        return model.apply(params, x, label, label)

    def loss(params, x, label):
        return jnp.sum(forward(params, x, label) ** 2)

    def counted(function):
        return jax.jit(function).lower(params, x, label).cost_analysis()["flops"] / batch

    # XLA also counts what is done element by element, which is little at this width.
    assert forward_flops(model, shape) == pytest.approx(counted(forward), rel=0.1)
    for trainable, gradient in (("all", jax.grad(loss)), ("class_embedding", jax.grad(loss, 1))):
        expected = counted(gradient)
        assert training_flops(model, shape, trainable) == pytest.approx(expected, rel=0.1)
