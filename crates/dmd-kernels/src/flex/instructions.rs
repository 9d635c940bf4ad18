//! Which of the processor's instructions the fast bodies use, and the arithmetic of their products.

use std::sync::OnceLock;

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

/// The variable that says which instructions are used at most, as oneDNN's `ONEDNN_MAX_CPU_ISA` does.
const LIMIT: &str = "DMD_MAX_CPU_ISA";
/// Its values, each with all that is before it.
const LEVELS: [&str; 4] = ["scalar", "avx2", "avx512", "avx512_bf16"];

/// The most of [`LEVELS`] that may be used.
///
/// # Errors
///
/// What is wrong with the variable's value.
pub(crate) fn limit() -> Result<usize, String> {
    let Some(value) = std::env::var_os(LIMIT) else {
        return Ok(LEVELS.len() - 1);
    };
    let known = LEVELS.iter().position(|level| value.eq_ignore_ascii_case(level));
    known.ok_or_else(|| format!("{LIMIT} is {value:?}; it can be {}", LEVELS.join(", ")))
}

/// The level in use; an unknown value of the variable limits nothing.
fn level() -> usize {
    static LEVEL: OnceLock<usize> = OnceLock::new();
    *LEVEL.get_or_init(|| limit().unwrap_or(LEVELS.len() - 1))
}

/// The widest vectors.
#[inline]
pub(super) fn arch() -> Arch {
    match level() {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        0 => Arch::Scalar,
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        1 => pulp::x86::V3::try_new().map_or(Arch::Scalar, Arch::V3),
        _ => Arch::new(),
    }
}

/// Runs a closure that is marked `#[inline(always)]`, compiled for the widest vectors.
///
/// [`Arch::dispatch`] itself takes closures too, as `FnOnce`. For one that could be called again the compiler then makes a function that
/// it may leave by itself, compiled for the narrowest vectors. Called as `FnMut` there is no such function.
#[inline(always)]
pub(super) fn vectorised<R>(closure: impl FnMut() -> R) -> R {
    arch().dispatch(Vectorised(closure))
}

struct Vectorised<F>(F);

impl<R, F: FnMut() -> R> WithSimd for Vectorised<F> {
    type Output = R;

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) -> R {
        (self.0)()
    }
}

/// Whether the processor multiplies bf16, and may.
pub(crate) fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Pairs::try_new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// How a product is computed. A value of its operands is a float, or two of half precision in the place of one.
pub(super) trait Arithmetic<S: Simd>: Copy {
    /// Runs `op` with the instructions that it needs.
    fn vectorize<O: NullaryFnOnce>(self, simd: S, op: O) -> O::Output;

    /// Adds the products of two vectors' values to sums in single precision.
    fn add(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s;
}

/// Products of floats.
#[derive(Debug, Clone, Copy)]
pub(super) struct Single;

impl<S: Simd> Arithmetic<S> for Single {
    #[inline(always)]
    fn vectorize<O: NullaryFnOnce>(self, simd: S, op: O) -> O::Output {
        simd.vectorize(op)
    }

    #[inline(always)]
    fn add(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, sum)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use pairs::Pairs;

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions whose presence a `Pairs` proves")]
mod pairs {
    use std::arch::x86_64::{__m512, __m512bh, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps};
    use std::mem::transmute;

    use half::bf16;
    use pulp::x86::V4;
    use pulp::{NullaryFnOnce, Simd, cast, f32x16};

    use super::{Arithmetic, level};
    use crate::flex::stored::Stored;

    /// Products of pairs of bf16, of which a float's place holds two, summed in single precision: twice as many a second as
    /// of floats. That a value exists proves that the processor computes them (AVX512-BF16).
    #[derive(Debug, Clone, Copy)]
    pub(in crate::flex) struct Pairs(V4);

    impl Pairs {
        /// Where the processor has the instructions and they may be used.
        pub(in crate::flex) fn try_new() -> Option<Self> {
            (level() >= 3 && std::is_x86_feature_detected!("avx512bf16"))
                .then(V4::try_new)
                .flatten()
                .map(Self)
        }

        /// The vectors that pairs are of.
        pub(in crate::flex) fn simd(self) -> V4 {
            self.0
        }

        /// Where there are instructions for what is stored: one of the matrices in bf16.
        pub(in crate::flex) fn of(stored: [Stored<'_>; 2]) -> Option<Self> {
            stored.iter().any(|stored| matches!(stored, Stored::Brain(_))).then(Self::try_new).flatten()
        }

        /// A row of values as pairs, the last with zero where their number is odd.
        pub(in crate::flex) fn paired(self, row: &[f32], out: &mut [f32]) {
            self.vectorize(self.0, Paired { by: self, row, out });
        }

        /// 32 values, 16 in each vector, rounded to bf16 (ties to even) in their order.
        #[inline(always)]
        pub(in crate::flex) fn rounded(self, [first, second]: [f32x16; 2]) -> f32x16 {
            // SAFETY: the processor has the instruction, see the type; both types are 64 bytes of numbers.
            unsafe {
                let first = transmute::<f32x16, __m512>(first);
                let second = transmute::<f32x16, __m512>(second);
                transmute::<__m512bh, f32x16>(_mm512_cvtne2ps_pbh(second, first))
            }
        }
    }

    impl Arithmetic<V4> for Pairs {
        #[inline(always)]
        fn vectorize<O: NullaryFnOnce>(self, _: V4, op: O) -> O::Output {
            // SAFETY: the processor has the instructions, see the type.
            unsafe { run(op) }
        }

        // `pulp::cast` is not always compiled in place, which costs the loop its registers.
        #[inline(always)]
        fn add(self, _: V4, a: f32x16, b: f32x16, sum: f32x16) -> f32x16 {
            // SAFETY: the processor has the instruction, see the type; all types are 64 bytes of numbers.
            unsafe {
                let (a, b) = (transmute::<f32x16, __m512bh>(a), transmute::<f32x16, __m512bh>(b));
                transmute::<__m512, f32x16>(_mm512_dpbf16_ps(transmute::<f32x16, __m512>(sum), a, b))
            }
        }
    }

    struct Paired<'a> {
        by: Pairs,
        row: &'a [f32],
        out: &'a mut [f32],
    }

    impl NullaryFnOnce for Paired<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self { by, row, out } = self;
            let (wide, rest) = row.as_chunks::<32>();
            let (pairs, last) = out.split_at_mut(16 * wide.len());
            let (pairs, _) = V4::as_mut_simd_f32s(pairs);
            for (out, values) in pairs.iter_mut().zip(wide) {
                *out = by.rounded(cast(*values));
            }
            for (out, values) in last.iter_mut().zip(rest.chunks(2)) {
                let [first, second] =
                    [0, 1].map(|i| bf16::from_f32(values.get(i).copied().unwrap_or(0.0)).to_bits());
                *out = f32::from_bits(u32::from(first) | u32::from(second) << 16);
            }
        }
    }

    /// Compiles `op` for the instructions of [`V4`] and bf16.
    #[target_feature(
        enable = "avx512bf16,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,fma,bmi1,bmi2,lzcnt,popcnt"
    )]
    fn run<O: NullaryFnOnce>(op: O) -> O::Output {
        op.call()
    }
}
