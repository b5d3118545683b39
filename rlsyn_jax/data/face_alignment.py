"""Aligns faces to the template of ArcFace by five landmarks: eyes, nose, corners of the mouth.

The similarity (rotation, one scale, translation) that brings the landmarks nearest to the template
in the sense of least squares is that of Umeyama, Least-squares estimation of transformation
parameters between two point patterns, IEEE PAMI 13(4), 1991. The template's points are those that
ArcFace (Deng et al., CVPR 2019) publishes for images of 112 x 112 pixels.
"""

import numpy as np
from scipy import ndimage

TEMPLATE_SIZE = 112
# (x, y) of the eye on the image's left, the other eye, the nose's tip, and the corners of the
# mouth, left and right.
ARCFACE_TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)


def similarity_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Find the similarity that brings points nearest to others, without a reflection.

    With centred points x_i and y_i, covariance C = mean_i y_i x_i^T = U diag(d) V^T and
    S = diag(1, .., sign det(U V^T)): R = U S V^T, scale = trace(diag(d) S) / mean_i |x_i|^2.

    Args:
        source: float [num_points, 2], (x, y).
        target: float [num_points, 2].

    Returns:
        float64 [2, 3], (A | t): target is about source A^T + t.

    Raises:
        ValueError: other shapes, fewer than two points, values that are not finite, or source
            points that all fall together.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.ndim != 2 or source.shape != target.shape or source.shape[1] != 2 or len(source) < 2:
        raise ValueError(
            f"expected as many (x, y) points in both, two at least; got {source.shape} and "
            f"{target.shape}"
        )
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("landmarks must be finite numbers")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    x, y = source - source_mean, target - target_mean
    variance = np.square(x).sum(axis=1).mean()
    if variance < 1e-12:
        raise ValueError(f"all landmarks are at {source_mean.tolist()}; expected different points")
    left, sizes, right = np.linalg.svd(y.T @ x / len(x))
    signs = np.array([1.0, np.sign(np.linalg.det(left @ right)) or 1.0])
    scaled = (sizes @ signs / variance) * (left * signs) @ right
    return np.column_stack([scaled, target_mean - scaled @ source_mean])


def align_face(
    image: np.ndarray, landmarks: np.ndarray, *, size: int = TEMPLATE_SIZE
) -> np.ndarray:
    """Cut a face out so that its landmarks lie where ArcFace's template has them.

    Args:
        image: uint8 [height, width, 1 or 3].
        landmarks: float [5, 2], (x, y) in pixels from the centre of the image's first pixel, in the
            order of ARCFACE_TEMPLATE.
        size: pixels of both sides; other sizes than 112 scale the template.

    Returns:
        uint8 [size, size, channels], by bilinear interpolation; black where the image ends.

    Raises:
        ValueError: another image or landmarks, as `similarity_transform`, or a size below 1.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(
            f"image must be uint8 [height, width, 1 or 3], got {image.dtype} {image.shape}"
        )
    if np.shape(landmarks) != ARCFACE_TEMPLATE.shape:
        raise ValueError(f"landmarks must be [5, 2], got {np.shape(landmarks)}")
    if size < 1:
        raise ValueError(f"size is {size}; expected 1 or more")
    matrix = similarity_transform(landmarks, ARCFACE_TEMPLATE * (size / TEMPLATE_SIZE))
    if abs(np.linalg.det(matrix[:, :2])) < 1e-12:
        raise ValueError("landmarks do not tell a face's direction; expected points as of a face")
    inverse = np.linalg.inv(matrix[:, :2])
    inverse, shift = inverse[::-1, ::-1], -(inverse @ matrix[:, 2])[::-1]  # Rows before columns.
    aligned = [
        ndimage.affine_transform(
            image[..., channel].astype(np.float64),
            inverse,
            shift,
            output_shape=(size, size),
            order=1,
            mode="grid-constant",
        )
        for channel in range(image.shape[-1])
    ]
    return np.rint(np.stack(aligned, axis=-1)).clip(0, 255).astype(np.uint8)
