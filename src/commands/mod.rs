//! The subcommands, one file each.

pub(crate) mod distill;
pub(crate) mod progress;
pub(crate) mod teacher;
