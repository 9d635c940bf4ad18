//! The transforms of [`winograd`](super::winograd) along one row or column, for vectors of tiles.
//!
//! F(4×4, 3×3) with the points 0, ±1/√2, ±√2 and ∞ (Toom and Cook's construction, transposed): these keep the
//! transforms' constants between 1/6 and 2.5, and the error within about twice a direct sum's.

use pulp::Simd;

pub(super) const A2: f32 = 0.5;
pub(super) const B2: f32 = 2.0;
pub(super) const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
pub(super) const B: f32 = std::f32::consts::SQRT_2;

/// Six inputs of a row or column to six points.
#[inline(always)]
pub(super) fn input<S: Simd>(s: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
    let c = |v| s.splat_f32s(v);
    let fma = |a, b, c| s.mul_add_e_f32s(a, b, c);
    let (e1, o1) = (fma(c(-B2), d[2], d[4]), s.mul_f32s(c(A), fma(c(-B2), d[1], d[3])));
    let (e2, o2) = (fma(c(-A2), d[2], d[4]), s.mul_f32s(c(B), fma(c(-A2), d[1], d[3])));
    [
        s.add_f32s(fma(c(-A2 - B2), d[2], d[0]), d[4]),
        s.add_f32s(e1, o1),
        s.sub_f32s(e1, o1),
        s.add_f32s(e2, o2),
        s.sub_f32s(e2, o2),
        s.add_f32s(fma(c(-A2 - B2), d[3], d[1]), d[5]),
    ]
}

/// Six points of a row or column to four outputs.
#[inline(always)]
pub(super) fn output<S: Simd>(s: S, m: [S::f32s; 6]) -> [S::f32s; 4] {
    let c = |v| s.splat_f32s(v);
    let fma = |a, b, c| s.mul_add_e_f32s(a, b, c);
    let (s1, t1) = (s.add_f32s(m[1], m[2]), s.mul_f32s(c(A), s.sub_f32s(m[1], m[2])));
    let (s2, t2) = (s.add_f32s(m[3], m[4]), s.mul_f32s(c(B), s.sub_f32s(m[3], m[4])));
    [
        s.add_f32s(m[0], s.add_f32s(s1, s2)),
        s.add_f32s(t1, t2),
        fma(c(A2), s1, s.mul_f32s(c(B2), s2)),
        fma(c(A2), t1, fma(c(B2), t2, m[5])),
    ]
}

/// Three weights of a row or column to six points.
#[inline(always)]
pub(super) fn weight<S: Simd>(s: S, g: [S::f32s; 3]) -> [S::f32s; 6] {
    // 2a²(a² − b²) = −3/2, 2b²(b² − a²) = 6, a²b² = 1.
    let c = |v| s.splat_f32s(v);
    let fma = |a, b, c| s.mul_add_e_f32s(a, b, c);
    let (e1, o1) = (s.mul_f32s(c(-1.0 / 1.5), fma(c(A2), g[2], g[0])), s.mul_f32s(c(-A / 1.5), g[1]));
    let (e2, o2) = (s.mul_f32s(c(1.0 / 6.0), fma(c(B2), g[2], g[0])), s.mul_f32s(c(B / 6.0), g[1]));
    [g[0], s.add_f32s(e1, o1), s.sub_f32s(e1, o1), s.add_f32s(e2, o2), s.sub_f32s(e2, o2), g[2]]
}
