//! How the allocator gets memory from the kernel.

use std::env;

/// What mimalloc itself is told by about huge pages.
const VARIABLE: &str = "MIMALLOC_ALLOW_THP";

/// Turns transparent huge pages off for this process and those that it starts: they make resident memory come in steps of 2
/// MiB, which idle connections do not fill. Where mimalloc's own variable is set, that decides.
///
/// The allocator is built not to ask for huge pages. This is for systems where every process gets them unasked
/// (`always` in /sys/kernel/mm/transparent_hugepage/enabled). It acts on memory that is touched later, so it comes first in
/// `main`.
pub fn avoid_huge_pages() {
    if env::var_os(VARIABLE).is_none() {
        // A kernel that does not know it has no huge pages either, or keeps them.
        let _ = rustix::thread::disable_transparent_huge_pages(true);
    }
}
