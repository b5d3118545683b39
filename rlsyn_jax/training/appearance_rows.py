"""Class rows that another image of the person tells, in place of a row of each person's own.

A row of its own learns a person who has one image as that one picture. Told from an embedding of
another image, it can only say what the embedding says, which images of a person share, and how they
differ otherwise is left to the noise. The rows are a linear function of unit embeddings, so that
those of new people follow from embeddings of theirs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rlsyn_jax.models.class_rows import with_class_table

# Where the parameters hold what is looked up; it does not train.
APPEARANCES = "appearances"


def make_appearances(embeddings: np.ndarray, people: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what `tell_rows` looks up.

    Args:
        embeddings: float32 [n, views, d], unit norm; views of an image are equally good.
        people: int [n], who is in each image.

    Returns:
        The embeddings, and int32 [n] "order" (images, person by person) and, for each image, its
        "place" there, where its person's "first" is, and the person's number of images, "count".
    """
    order = np.argsort(people, kind="stable")
    _, first, inverse, counts = np.unique(
        people[order], return_index=True, return_inverse=True, return_counts=True
    )
    place = np.empty(len(people), np.int32)
    place[order] = np.arange(len(people))
    person = inverse[place]
    numbers = {"order": order, "place": place, "first": first[person], "count": counts[person]}
    return {
        "embeddings": embeddings.astype(np.float32, copy=False),
        **{name: value.astype(np.int32) for name, value in numbers.items()},
    }


def tell_rows(params: dict, key: jax.Array, images: jax.Array, *, noise: float) -> dict:
    """Replaces the class table by one with a row for each image of a batch; the null row is kept.

    Each image is told by a random view of a random other image of its person, or of itself where
    there is no other.

    Args:
        params: a generator's, whose table holds the map from embeddings to rows, the bias and the
            null row, [d + 2, width], and APPEARANCES what `make_appearances` returned.
        key: typed random key; image i draws from fold_in(key, i).
        images: int [b], which images they are.
        noise: each embedding is moved by normal noise of a norm around noise x u, with u uniform in
            0..1, and made unit again; at least 0.

    Returns:
        Parameters without APPEARANCES, whose table is [b + 1, width].
    """
    known = params[APPEARANCES]
    views, width = known["embeddings"].shape[1:]

    def embedding(index, image):
        image_key, view_key, scale_key, noise_key = jax.random.split(
            jax.random.fold_in(key, index), 4
        )
        count, first = known["count"][image], known["first"][image]
        # One of the other count - 1 that follow it, counted around.
        further = 1 + jax.random.randint(image_key, (), 0, jnp.maximum(count - 1, 1))
        other = known["order"][first + (known["place"][image] - first + further) % count]
        value = known["embeddings"][other, jax.random.randint(view_key, (), 0, views)]
        scale = noise * jax.random.uniform(scale_key) / jnp.sqrt(width)
        value += scale * jax.random.normal(noise_key, value.shape)
        return value / jnp.linalg.norm(value)

    embeddings = jax.vmap(embedding)(jnp.arange(len(images)), images)  # [b, d]
    rest = {name: value for name, value in params.items() if name != APPEARANCES}
    table = params["y_embedder"]["embedding_table"]
    return with_class_table(rest, class_table(table, embeddings))


def class_table(table: jax.Array, embeddings: jax.Array) -> jax.Array:
    """Returns the class table of people whose embeddings are known, float32 [people + 1, width].

    Args:
        table: as `tell_rows` has it, float32 [d + 2, width].
        embeddings: float32 [people, d], unit norm, as in training: of several images of a person
            the direction of the mean. A shorter one gives a row that is nearer to all others'.
    """
    return jnp.concatenate([embeddings @ table[:-2] + table[-2], table[-1:]])
