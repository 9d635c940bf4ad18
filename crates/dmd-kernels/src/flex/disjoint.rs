//! Memory that several threads write, each its own places.

use std::marker::PhantomData;

/// A slice whose parts are handed out to threads that agree on who writes where: Winograd's transforms write every
/// channel at places strided over the whole buffer, which safe splitting can only express as thousands of tiny slices.
#[derive(Debug)]
pub(super) struct Disjoint<'a> {
    start: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

#[expect(
    unsafe_code,
    reason = "plain floats, borrowed mutably for 'a; `part` says what its callers must keep to"
)]
// SAFETY: sharing the pointer alone does nothing; writing goes through `part`, whose contract forbids overlaps.
unsafe impl Sync for Disjoint<'_> {}

impl<'a> Disjoint<'a> {
    pub(super) fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// `len` floats from `at` on.
    ///
    /// # Safety
    ///
    /// No two parts that are alive at one time overlap.
    ///
    /// # Panics
    ///
    /// If they do not lie inside the slice.
    #[expect(unsafe_code, reason = "see the type")]
    #[expect(clippy::mut_from_ref, reason = "the contract is that parts do not overlap")]
    #[inline(always)]
    pub(super) unsafe fn part(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at <= self.len && len <= self.len - at, "a part lies inside its slice");
        // SAFETY: inside the slice, which is borrowed mutably for 'a; the caller vouches that nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
