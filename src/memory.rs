//! How the program's memory is kept. A network allocates and frees the same large blocks with every operation. glibc gives such
//! blocks back to the system at once, and takes new ones in pages of 4 KiB: getting them again took a third of a picture's time.
//! jemalloc, as it is set here, keeps all that is freed, also the largest blocks, in one place for all threads, and asks for pages of
//! 2 MiB.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// jemalloc reads its settings at this name, up to the zero byte.
#[expect(unsafe_code, reason = "the name under which jemalloc looks for its settings")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: &[u8] = b"oversize_threshold:0,thp:always,dirty_decay_ms:-1,narenas:1\0";
