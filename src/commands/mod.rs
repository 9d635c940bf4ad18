//! The subcommands, one file each.

pub(crate) mod progress;
pub(crate) mod teacher;
