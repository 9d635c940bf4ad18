//! How the program's memory is kept.

/// Lets the allocator keep what is freed. A network allocates and frees the same large blocks with every operation;
/// glibc gives such blocks back to the system at once, and getting them again, page by page, took a third of a
/// picture's time. Once, before anything large is allocated.
pub(crate) fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "a setting of the allocator, made before there are other threads")]
    // SAFETY: mallopt is called before any thread is started; it refuses values it does not know.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}
