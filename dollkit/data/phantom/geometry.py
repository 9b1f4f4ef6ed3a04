"""Primitives of the phantom: projected thickness of simple solids on a turned pixel grid.

All lengths are in *body units*: 1 is the side of the square film at scale 1, x grows to the right
of the picture (the patient's left), y downwards, the origin is the centre of the chest. A film is
a similarity transform of the body plane, so every primitive is evaluated at the body coordinates
of the pixel centres and the same anatomy comes out at every size. Primitives are evaluated only
inside their bounding boxes; tubes are splatted along samples whose number does not depend on the
size. Nothing here calls BLAS, so that results are equal byte by byte whatever the thread count.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Window = tuple[slice, slice]

TABLE = 2048
LIMIT = 0.8
AXIS: Floats = np.linspace(-LIMIT, LIMIT, TABLE, dtype=np.float32)
"""Body coordinate of each entry of a one-dimensional lookup table."""


def generator(*key: object) -> np.random.Generator:
    """Random stream of its own for a key such as ``(seed, image_id, finding)``.

    The key is hashed with BLAKE2b, so streams agree between processes and platforms and do not
    depend on which other streams were drawn before.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def table_index(v: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Index into a table over `AXIS` for body coordinates `v` (clipped to the table)."""
    scaled = (np.asarray(v, np.float32) + np.float32(LIMIT)) * np.float32((TABLE - 1) / 2 / LIMIT)
    return np.asarray(np.clip(scaled + np.float32(0.5), 0, TABLE - 1), np.intp)


def entry(v: float) -> int:
    """`table_index` of one number."""
    return min(max(int((v + LIMIT) * (TABLE - 1) / 2 / LIMIT + 0.5), 0), TABLE - 1)


class Grid:
    """Pixel centres of one film: body coordinates `x` and `y`, (size, size) float32, and the table
    indices `ix` and `iy` of these.

    `turn` is in radians, `shift` that of the chest's centre in film units.
    """

    def __init__(
        self, size: int, turn: float = 0.0, scale: float = 1.0,
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> None:  # fmt: skip
        self.size, self.turn, self.scale, self.shift = size, turn, scale, shift
        centres = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
        u, v = centres - np.float32(shift[0]), (centres - np.float32(shift[1]))[:, None]
        c, s = np.float32(np.cos(turn) / scale), np.float32(np.sin(turn) / scale)
        self.x: Floats = c * u + s * v
        self.y: Floats = c * v - s * u
        self.ix, self.iy = table_index(self.x), table_index(self.y)

    def pixels(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Pixel coordinates (column, row; centre of the first pixel is 0) of body points."""
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        c, s = np.cos(self.turn) * self.scale, np.sin(self.turn) * self.scale
        column = (c * x - s * y + self.shift[0] + 0.5) * self.size - 0.5
        row = (s * x + c * y + self.shift[1] + 0.5) * self.size - 0.5
        return column.astype(np.float32), row.astype(np.float32)

    def window(self, x0: float, x1: float, y0: float, y1: float) -> Window:
        """Slices (rows, columns) of the pixels that may lie in a body-frame box; may be empty."""
        # Scalars: this is called for every primitive, and arrays of four would cost more.
        n = self.size
        c, s = math.cos(self.turn) * self.scale * n, math.sin(self.turn) * self.scale * n
        column = [c * x - s * y for x in (x0, x1) for y in (y0, y1)]
        row = [s * x + c * y for x in (x0, x1) for y in (y0, y1)]
        at_x, at_y = (self.shift[0] + 0.5) * n - 0.5, (self.shift[1] + 0.5) * n - 0.5
        c0, c1 = max(0, math.floor(min(column) + at_x)), min(n, math.ceil(max(column) + at_x) + 1)
        r0, r1 = max(0, math.floor(min(row) + at_y)), min(n, math.ceil(max(row) + at_y) + 1)
        return slice(r0, max(r0, r1)), slice(c0, max(c0, c1))

    def ellipsoid(
        self, centre: tuple[float, float], radii: tuple[float, float], depth: float,
        turn: float = 0.0,
    ) -> tuple[Window, Floats]:  # fmt: skip
        """Window and thickness of an ellipsoid with half-axes `radii` and, along the ray, `depth`.

        The chord is ``2 depth sqrt(1 - q)``, q the normalised squared distance from the centre.
        """
        reach = max(radii)
        w = self.window(centre[0] - reach, centre[0] + reach, centre[1] - reach, centre[1] + reach)
        dx, dy = self.x[w] - np.float32(centre[0]), self.y[w] - np.float32(centre[1])
        if turn:
            c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
            dx, dy = c * dx + s * dy, c * dy - s * dx
        q = (dx * np.float32(1 / radii[0])) ** 2 + (dy * np.float32(1 / radii[1])) ** 2
        return w, np.float32(2 * depth) * np.sqrt(np.maximum(np.float32(1) - q, 0))

    def graph_tube(
        self, side: int, curve: Floats, radius: Floats, span: tuple[float, float],
        hollow: float = 0.0,
    ) -> tuple[Window, Floats]:  # fmt: skip
        """Window and thickness of a round tube whose axis is the graph ``y = curve(side * x)``.

        `curve` and `radius` are tables over `AXIS`; the tube exists where ``side * x`` lies in
        `span`, and `hollow` is the share of its radius that is a cavity (a bone's marrow). The
        distance to the axis is taken as the vertical one times the cosine of the slope: exact for
        straight tubes, good where the bend is much wider than the tube.
        """
        i0, i1 = entry(span[0]), entry(span[1])
        part, rad = curve[i0 : i1 + 1].astype(np.float32), radius[i0 : i1 + 1].astype(np.float32)
        reach = 1.5 * float(rad.max())
        x0, x1 = sorted((side * span[0], side * span[1]))
        w = self.window(x0, x1, float(part.min()) - reach, float(part.max()) + reach)
        ix = self.ix[w] if side > 0 else TABLE - 1 - self.ix[w]
        ix = np.clip(ix - i0 + 1, 0, len(part) + 1)
        slope = np.empty_like(part)
        slope[1:-1] = (part[2:] - part[:-2]) * np.float32(0.5 / (AXIS[1] - AXIS[0]))
        slope[0], slope[-1] = slope[1], slope[-2]
        # One entry on either side stands for "outside the span": radius and chord are 0 there.
        square, axis, cosine = np.zeros((3, len(part) + 2), np.float32)
        square[1:-1], axis[1:-1] = rad * rad, part
        cosine[1:-1] = 1 / np.sqrt(1 + slope * slope)
        r = square[ix]
        d = (self.y[w] - axis[ix]) * cosine[ix]
        d *= d
        chord = np.sqrt(np.maximum(r - d, 0))
        if hollow:
            chord -= np.sqrt(np.maximum(r * np.float32(hollow * hollow) - d, 0))
        return w, 2 * chord

    def splat(self, points: npt.ArrayLike, sigma: npt.ArrayLike, weight: npt.ArrayLike) -> Floats:
        """Sum of Gaussian blobs of width `sigma` and height `weight` at (n, 2) `points`.

        Blobs narrower than half a pixel are widened to it with their mass kept, so that fine
        structures fade instead of aliasing.
        """
        x, y = np.asarray(points, np.float32).T
        n = len(x)
        column, row = self.pixels(x, y)
        true = np.asarray(sigma, np.float32) * np.float32(self.scale * self.size)
        s = np.maximum(true, np.float32(0.5))
        peak = np.broadcast_to(np.asarray(weight, np.float32) * (true / s) ** 2, n)
        s = np.broadcast_to(s, n)
        half = int(np.ceil(2.6 * float(s.max())))
        offset = np.arange(-half, half + 1)
        c0, r0 = np.rint(column).astype(np.intp), np.rint(row).astype(np.intp)
        near = (c0 > -half) & (c0 < self.size + half) & (r0 > -half) & (r0 < self.size + half)
        c0, r0, column, row, s, peak = (
            c0[near],
            r0[near],
            column[near],
            row[near],
            s[near],
            peak[near],
        )
        cc, rr = c0[:, None] + offset, r0[:, None] + offset
        inverse = (np.float32(-0.5) / (s * s))[:, None]
        gx = np.exp((cc - column[:, None]) ** 2 * inverse)
        gy = np.exp((rr - row[:, None]) ** 2 * inverse) * peak[:, None]
        # A padded target lets blobs hang over the border without a mask per sample.
        pad, start = self.size + 4 * half, 2 * half
        flat = ((rr + start)[:, :, None] * pad + (cc + start)[:, None, :]).ravel()
        values = (gy[:, :, None] * gx[:, None, :]).ravel()
        total = np.bincount(flat, values, minlength=pad * pad).reshape(pad, pad)
        inner = slice(start, start + self.size)
        return total[inner, inner].astype(np.float32)

    def gaussian_tube(self, points: npt.ArrayLike, sigma: float, peak: float) -> Floats:
        """A tube with Gaussian profile of width `sigma` and height `peak` along a polyline."""
        p = resample(points, 0.9 * sigma)
        step = float(np.hypot(*(p[1] - p[0])))
        # Blobs every `step` add up to peak along the axis.
        return self.splat(p, sigma, peak * step / (sigma * np.sqrt(2 * np.pi)))

    def stamp(self, mask: npt.NDArray[np.uint8], points: npt.ArrayLike, radius: float) -> None:
        """Set to 1 in place every pixel whose centre lies within `radius` of a polyline."""
        p = np.asarray(points, np.float32)
        if len(p) > 1:
            p = resample(p, 0.5 * radius)
        column, row = self.pixels(p[:, 0], p[:, 1])
        r = radius * self.scale * self.size
        half = int(np.ceil(r)) + 1
        offset = np.arange(-half, half + 1)
        cc = np.rint(column).astype(np.intp)[:, None] + offset
        rr = np.rint(row).astype(np.intp)[:, None] + offset
        x, y = ((cc - column[:, None]) ** 2)[:, None, :], ((rr - row[:, None]) ** 2)[:, :, None]
        across, down = ((at >= 0) & (at < self.size) for at in (cc, rr))
        k, i, j = np.nonzero((x + y <= r * r) & across[:, None, :] & down[:, :, None])
        mask[rr[k, i], cc[k, j]] = 1


def ramp(v: Floats) -> Floats:
    """Smooth step: 0 below 0, 1 above 1, ``3v^2 - 2v^3`` between."""
    v = np.clip(v, 0, 1)
    return v * v * (3 - 2 * v)


def resample(points: npt.ArrayLike, step: float) -> Floats:
    """Points (m, 2) every `step` body units or less along a polyline (n, 2)."""
    p = np.asarray(points, np.float64)
    lengths = np.hypot(*np.diff(p, axis=0).T)
    at = np.concatenate([[0.0], np.cumsum(lengths)])
    want = np.linspace(0, at[-1], max(2, int(np.ceil(at[-1] / step)) + 1))
    along = np.stack([np.interp(want, at, p[:, 0]), np.interp(want, at, p[:, 1])], 1)
    return along.astype(np.float32)
