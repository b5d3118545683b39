"""An endless world of drawn people: faces with known identity, pose, light, expression and camera.

Everything is smooth shapes (signed distances turned into soft edges), so that a small generator
can learn the world in minutes. A person is a row of factors drawn from (seed, person number); an
image adds pose, light, expression, clothes and camera. The same arguments give the same bytes on
every machine with the same NumPy.
"""

from __future__ import annotations

import numpy as np

from rlsyn_jax.data.identity_dataset import IdentityDataset

# Name of each factor of a person, with its range; drawn uniformly.
IDENTITY_RANGES = {
    "face_width": (0.42, 0.56),
    "face_height": (0.56, 0.70),
    "jaw": (0.55, 1.0),
    "skin_tone": (0.0, 1.0),
    "skin_hue": (-1.0, 1.0),
    "hair_hue": (0.0, 1.0),
    "hair_lightness": (0.0, 1.0),
    "hair_volume": (0.03, 0.20),
    "hair_length": (-0.25, 0.9),
    "hairline": (0.14, 0.36),
    "parting": (-0.5, 0.5),
    "eye_spacing": (0.17, 0.26),
    "eye_size": (0.065, 0.11),
    "eye_height": (-0.12, 0.02),
    "iris_hue": (0.0, 1.0),
    "brow_thickness": (0.018, 0.05),
    "brow_tilt": (-0.35, 0.35),
    "nose_length": (0.16, 0.30),
    "nose_width": (0.045, 0.11),
    "mouth_width": (0.13, 0.25),
    "lip_fullness": (0.025, 0.06),
    "lip_redness": (0.1, 1.0),
    "glasses": (-1.6, 1.0),
    "beard": (-1.2, 1.0),
}

# Name of each factor of an image, with its range; drawn uniformly, camera apart.
IMAGE_RANGES = {
    "yaw": (-1.0, 1.0),
    "pitch": (-1.0, 1.0),
    "roll": (-0.14, 0.14),
    "scale": (0.9, 1.1),
    "shift_x": (-0.07, 0.07),
    "shift_y": (-0.07, 0.07),
    "light": (-1.0, 1.0),
    "light_height": (-1.0, 1.0),
    "expression": (0.0, 1.0),
    "eye_openness": (0.45, 1.1),
    "brow_raise": (-0.03, 0.05),
    "clothes_hue": (0.0, 1.0),
    "clothes_lightness": (0.25, 0.9),
}

_SMALLEST_SIZE = 16
_CHUNK = 64


def make_procedural_dataset(
    *,
    num_identities: int,
    images_per_identity: int,
    image_size: int = 32,
    seed: int = 0,
    identity_offset: int = 0,
    num_cameras: int = 4,
    name: str = "procedural",
) -> tuple[IdentityDataset, dict[str, np.ndarray]]:
    """Draws people number identity_offset .. identity_offset + num_identities - 1.

    Args:
        num_identities: people, at least 2.
        images_per_identity: images of each, at least 1; cameras take turns.
        image_size: pixels a side, at least 16.
        seed: of the whole world, 0 or more.
        identity_offset: first person; disjoint ranges are different people.
        num_cameras: cameras, each with its own colour cast, gain, background and blur.
        name: of the data set.

    Returns:
        The data set (colour, cameras known) and its factors by name, each [n].

    Raises:
        ValueError: a number is out of its range.
    """
    for label, value, least in (
        ("num_identities", num_identities, 2),
        ("images_per_identity", images_per_identity, 1),
        ("image_size", image_size, _SMALLEST_SIZE),
        ("seed", seed, 0),
        ("identity_offset", identity_offset, 0),
        ("num_cameras", num_cameras, 1),
    ):
        if value < least:
            raise ValueError(f"procedural data: {label} must be at least {least}, got {value}")
    rows = []
    for person in range(identity_offset, identity_offset + num_identities):
        person_random = np.random.default_rng(np.random.SeedSequence([seed, 1, person]))
        traits = {k: person_random.uniform(*r) for k, r in IDENTITY_RANGES.items()}
        for number in range(images_per_identity):
            image_random = np.random.default_rng(np.random.SeedSequence([seed, 2, person, number]))
            rows.append(
                {
                    **traits,
                    **{k: image_random.uniform(*r) for k, r in IMAGE_RANGES.items()},
                    "camera": (number + person) % num_cameras,
                }
            )
    factors = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    casts = _camera_properties(seed, num_cameras)
    total = num_identities * images_per_identity
    images = np.concatenate(
        [
            _render(
                {k: v[start : start + _CHUNK, None, None] for k, v in factors.items()},
                casts,
                image_size,
            )
            for start in range(0, total, _CHUNK)
        ]
    )
    identities = np.repeat(np.arange(num_identities, dtype=np.int32), images_per_identity)
    names = tuple(f"person_{identity_offset + i:06d}" for i in range(num_identities))
    cameras = factors["camera"].astype(np.int32)
    dataset = IdentityDataset(
        name=name,
        images=images,
        identities=identities,
        cameras=cameras,
        identity_names=names,
        file_names=tuple(
            f"{names[i]}/{n % images_per_identity:04d}_c{c + 1}.png"
            for n, (i, c) in enumerate(zip(identities, cameras))
        ),
    )
    return dataset, factors


def _camera_properties(seed: int, num_cameras: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(np.random.SeedSequence([seed, 3]))
    return {
        "cast": random.uniform(0.86, 1.14, (num_cameras, 3)),
        "gain": random.uniform(0.8, 1.1, num_cameras),
        "background": random.uniform(0.2, 0.8, (num_cameras, 1))
        + random.uniform(-0.12, 0.12, (num_cameras, 3)),
        "blur": random.uniform(0.0, 0.5, num_cameras),
    }


def _inside(distance: np.ndarray, softness: np.ndarray | float) -> np.ndarray:
    """Turns a signed distance (negative inside) into coverage 0..1 with a soft edge."""
    return np.clip(0.5 - distance / softness, 0.0, 1.0)


def _ellipse(x, y, centre_x, centre_y, radius_x, radius_y):
    """Approximate signed distance of an ellipse, in units of its smaller radius."""
    u, v = (x - centre_x) / radius_x, (y - centre_y) / radius_y
    return (np.sqrt(u * u + v * v) - 1) * np.minimum(radius_x, radius_y)


def _hue(value: np.ndarray, lightness: np.ndarray, saturation: np.ndarray | float) -> np.ndarray:
    """Colour [..., 3] of a hue (turns), lightness and saturation (0..1)."""
    phase = 2 * np.pi * (value[..., None] - np.array([0.0, 1 / 3, 2 / 3]))
    lightness, saturation = np.asarray(lightness)[..., None], np.asarray(saturation)[..., None]
    return np.clip(lightness * (1 + saturation * np.cos(phase)), 0, 1)


def _render(f: dict[str, np.ndarray], cameras: dict[str, np.ndarray], size: int) -> np.ndarray:
    """Draws images uint8 [m, size, size, 3] of factors that are [m, 1, 1] each."""
    grid = (np.arange(2 * size) + 0.5) / size - 1.0
    x0, y0 = np.meshgrid(grid, grid)  # [2 size, 2 size]; x right, y down, both -1..1
    x0 = (x0 - f["shift_x"]) / f["scale"]
    y0 = (y0 - f["shift_y"]) / f["scale"]
    cosine, sine = np.cos(f["roll"]), np.sin(f["roll"])
    x, y = cosine * x0 + sine * y0, -sine * x0 + cosine * y0  # Head coordinates.
    soft = 1.5 / size * 2

    turn, nod = 0.12 * f["yaw"], 0.06 * f["pitch"]
    camera = f["camera"][:, 0, 0].astype(int)
    background = cameras["background"][camera][:, None, None]
    image = background * (0.85 + 0.15 * (1 - y0[..., None]))

    def paint(image, colour, coverage):
        return image + coverage[..., None] * (colour - image)

    # Hair behind the head, shoulders, neck.
    hair_colour = _hue(0.06 + 0.06 * f["hair_hue"], 0.08 + 0.62 * f["hair_lightness"] ** 1.5, 0.45)
    face_x, face_y = f["face_width"], f["face_height"]
    volume = f["hair_volume"]
    back = _ellipse(x, y, 0.3 * turn, -0.08, face_x + volume, face_y + volume)
    fall = np.maximum(np.abs(x - 0.3 * turn) - (face_x + 0.7 * volume), y - f["hair_length"])
    fall = np.maximum(fall, -0.1 - y)
    image = paint(image, 0.8 * hair_colour, _inside(np.minimum(back, fall), soft))
    clothes = _hue(f["clothes_hue"], f["clothes_lightness"], 0.5)
    shoulders = _ellipse(x0, y0, 0.0, 1.25, 0.95, 0.55)
    image = paint(image, clothes, _inside(shoulders, soft))
    skin = _hue(
        0.055 + 0.02 * f["skin_hue"], 0.28 + 0.5 * f["skin_tone"], 0.28 + 0.06 * f["skin_hue"]
    )
    neck = np.maximum(np.abs(x) - 0.45 * face_x, np.maximum(0.2 - y, y - 0.85))
    image = paint(image, 0.78 * skin, _inside(neck, soft))

    # Head: the lower half narrows towards the jaw.
    narrowing = 1 - (1 - f["jaw"]) * np.clip(y / face_y, 0, 1)
    head = _ellipse(x / narrowing, y, 0.0, 0.0, face_x, face_y)
    ears = np.minimum(
        _ellipse(x, y, -face_x + turn * 0.4, 0.0, 0.08, 0.13),
        _ellipse(x, y, face_x + turn * 0.4, 0.0, 0.08, 0.13),
    )
    image = paint(image, 0.9 * skin, _inside(ears, soft))
    shade = (
        1
        + 0.42 * (f["light"] * (x - turn) / face_x + 0.35 * f["light_height"] * -y / face_y)
        - 0.16 * ((x - turn) ** 2 / face_x**2)
    )
    head_cover = _inside(head, soft)
    image = paint(image, np.clip(skin * shade[..., None], 0, 1), head_cover)

    # Features move with the pose.
    u, v = x - turn, y - nod
    smile = f["expression"]
    beard = np.clip(f["beard"], 0, 1)
    chin = _inside(0.2 + 0.1 * (1 - beard) - v + 0.5 * u**2, 0.25) * head_cover * 0.75 * beard
    image = paint(image, 0.7 * hair_colour + 0.1 * skin, chin)
    nose = np.maximum(
        np.abs(u - 0.3 * turn) - f["nose_width"] * (0.35 + 0.65 * np.clip((v + 0.1) / 0.3, 0, 1)),
        np.maximum(-0.05 - v, v - (f["nose_length"] - 0.02)),
    )
    image = paint(
        image, np.clip(0.8 * skin * shade[..., None], 0, 1), 0.75 * _inside(nose, 2 * soft)
    )
    mouth_y = 0.30 + 0.35 * (f["nose_length"] - 0.16)
    curve = mouth_y + 0.06 * smile - 1.6 * smile * u**2 * 1.2
    width = f["mouth_width"] * (1 + 0.3 * smile)
    lips_colour = skin * (1 - f["lip_redness"][..., None] * np.array([0.1, 0.5, 0.45])) * 0.85
    lips = np.maximum(np.abs(v - curve) - f["lip_fullness"] * (1 + 0.5 * smile), np.abs(u) - width)
    image = paint(image, lips_colour, _inside(lips, soft))
    teeth = np.maximum(
        np.abs(v - curve) - f["lip_fullness"] * (1.4 * smile - 0.45), np.abs(u) - 0.75 * width
    )
    image = paint(image, np.full(3, 0.93), _inside(teeth, soft) * (smile > 0.35))
    iris_colour = _hue(0.08 + 0.5 * f["iris_hue"], 0.15 + 0.2 * f["iris_hue"], 0.5)
    eye_y = f["eye_height"]
    for side in (-1, 1):
        centre = side * f["eye_spacing"]
        open_height = f["eye_size"] * 0.72 * f["eye_openness"] * (1 - 0.25 * smile)
        eye = _ellipse(u, v, centre, eye_y, f["eye_size"] * 1.25, open_height)
        image = paint(image, np.full(3, 0.95), _inside(eye, soft))
        iris = _ellipse(
            u, v, centre + 0.35 * turn, eye_y, f["eye_size"] * 0.62, f["eye_size"] * 0.62
        )
        image = paint(image, iris_colour, _inside(np.maximum(iris, eye), soft))
        brow_y = eye_y - 0.13 - f["brow_raise"] + f["brow_tilt"] * (np.abs(u) - f["eye_spacing"])
        brow = np.maximum(np.abs(v - brow_y) - f["brow_thickness"], np.abs(u - centre) - 0.12)
        image = paint(image, 0.6 * hair_colour, _inside(brow, soft))
        ring = np.abs(_ellipse(u, v, centre, eye_y, 0.16, 0.13)) - 0.02
        image = paint(image, np.full(3, 0.08), _inside(ring, soft) * (f["glasses"] > 0))
    bridge = np.maximum(np.abs(v - eye_y) - 0.018, np.abs(u) - f["eye_spacing"] + 0.14)
    image = paint(image, np.full(3, 0.08), _inside(bridge, soft) * (f["glasses"] > 0))

    # Hair in front: a cap above the hairline, parted.
    line = -face_y + f["hairline"] + 0.35 * np.abs(x - turn - f["parting"] * face_x)
    cap = np.maximum(_ellipse(x, y, 0.2 * turn, -0.03, face_x + volume, face_y + volume), y - line)
    sheen = 1 + 0.3 * f["light"] * x
    image = paint(image, np.clip(hair_colour * sheen[..., None], 0, 1), _inside(cap, soft))

    # Camera: two by two pixels become one, blur, colour cast, gain.
    m = len(camera)
    image = image.reshape(m, size, 2, size, 2, 3).mean(axis=(2, 4))
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = sum(
        weight_y * weight_x * padded[:, dy : dy + size, dx : dx + size]
        for dy, weight_y in enumerate((0.25, 0.5, 0.25))
        for dx, weight_x in enumerate((0.25, 0.5, 0.25))
    )
    blur = cameras["blur"][camera][:, None, None, None]
    image = image + blur * (blurred - image)
    image = image * (cameras["cast"][camera] * cameras["gain"][camera][:, None])[:, None, None]
    image = image * (1 + 0.12 * f["light_height"][..., None])
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
