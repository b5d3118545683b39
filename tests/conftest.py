"""Every test sees eight virtual CPU devices, so that sharded programs can be run anywhere."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
