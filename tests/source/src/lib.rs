//! What the source of this repository must be, read as text and syntax: which crate uses which, no files that import each
//! other in a circle, no dependency without a use, the field's words; and its measures.
//!
//! Knows none of our crates, so it works while they do not compile. The tests in `tests/` decide; the modules here read.

pub mod circles;
pub mod measure;
pub mod source;
pub mod unused;
pub mod words;
pub mod workspace;

use std::path::PathBuf;

/// The root of this checkout. Read while it runs: a program in a shared target folder may have been compiled in another.
#[must_use]
pub fn repository_root() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.join("../..").canonicalize().expect("a checkout that is compiled has a root")
}
