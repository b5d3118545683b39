"""Where arrays lie on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rlsyn_jax.training.meshes import (
    batch_sharding,
    make_abstract_mesh,
    make_mesh,
    parameter_shardings,
    replicated,
)


@pytest.mark.parametrize(("fsdp", "shape"), [(1, (8, 1)), (2, (4, 2)), (8, (1, 8))])
def test_mesh_holds_every_device_once(fsdp, shape):
    mesh = make_mesh(fsdp)
    assert mesh.axis_names == ("data", "fsdp") and mesh.devices.shape == shape
    assert list(mesh.devices.ravel()) == jax.devices()


def test_a_split_that_does_not_divide_the_devices_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="fsdp is 3; it must divide the number of devices, 8"):
        make_mesh(3)
    with pytest.raises(ValueError, match="fsdp is 0"):
        make_mesh(0)
    with pytest.raises(ValueError, match="fsdp is 4; .* devices, 2"):
        make_mesh(4, devices=jax.devices()[:2])


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_shards_have_the_same_shapes_on_devices_that_are_not_here(fsdp):
    tree = {"whole": jax.ShapeDtypeStruct((3, 5), jnp.float32)}
    tree["split"] = jax.ShapeDtypeStruct((64, 1024), jnp.float32)
    here, elsewhere = (
        jax.tree.map(lambda v, s: s.shard_shape(v.shape), tree, parameter_shardings(mesh, tree))
        for mesh in (make_mesh(fsdp), make_abstract_mesh(8, fsdp))
    )
    assert here == elsewhere and here["split"] == (64, 1024 // fsdp)
    with pytest.raises(ValueError, match="fsdp is 3; it must divide the number of devices, 8"):
        make_abstract_mesh(8, 3)


def test_a_batch_is_split_over_all_devices_in_order():
    mesh = make_mesh(2)
    batch = jax.device_put(np.arange(16).reshape(16, 1), batch_sharding(mesh))
    for place, shard in enumerate(sorted(batch.addressable_shards, key=lambda s: s.device.id)):
        np.testing.assert_array_equal(shard.data.ravel(), [2 * place, 2 * place + 1])


def test_a_replicated_array_lies_whole_on_every_device():
    value = jax.device_put(np.arange(3.0), replicated(make_mesh(4)))
    assert [shard.data.shape for shard in value.addressable_shards] == [(3,)] * 8


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((128, 128), PartitionSpec("fsdp")),  # The first of equal axes.
        ((64, 256), PartitionSpec(None, "fsdp")),
        ((256, 64), PartitionSpec("fsdp")),
        ((3, 3, 64, 127), PartitionSpec(None, None, "fsdp")),  # The longest does not divide.
        ((129, 129), PartitionSpec()),  # None divides.
        ((127, 128), PartitionSpec()),  # Below 16,384 elements.
        ((), PartitionSpec()),
    ],
)
def test_a_parameter_is_split_along_its_longest_axis_that_divides(shape, spec):
    mesh = make_mesh(2)
    tree = {"a": [jax.ShapeDtypeStruct(shape, jnp.float32)]}
    sharding = parameter_shardings(mesh, tree)["a"][0]
    assert sharding.is_equivalent_to(jax.NamedSharding(mesh, spec), len(shape))


def test_parameters_of_plain_data_parallelism_stay_whole():
    sharding = parameter_shardings(make_mesh(1), jnp.zeros((256, 256)))
    assert sharding.is_fully_replicated and len(sharding.device_set) == 8


def test_each_device_holds_its_share_of_the_parameters_only():
    mesh = make_mesh(4)
    params = {"large": jnp.zeros((512, 64)), "small": jnp.zeros(64)}
    placed = jax.device_put(params, parameter_shardings(mesh, params))
    assert {shard.data.shape for shard in placed["large"].addressable_shards} == {(128, 64)}
    assert {shard.data.shape for shard in placed["small"].addressable_shards} == {(64,)}
