//! The ranks of a distillation as processes of MPI, which `mpirun` or `srun` starts on one or several machines.
//!
//! Without the feature `mpi` this crate is empty. With it `Mpi` is a `dmd_train::Collective`; building it takes an MPI
//! with headers, a C compiler and libclang (Debian: `openmpi-bin libopenmpi-dev libclang-dev`).
//!
//! MPI reports no failures to its caller: where a process is lost, the whole job ends. What this crate adds is that it does
//! end. A process that panics, or returns an error, would wait in `MPI_Finalize` for the others, who wait for it; so a
//! panic aborts the job, and a program calls `Mpi::abort` where it would return an error.

#[cfg(feature = "mpi")]
mod process;

#[cfg(feature = "mpi")]
pub use process::{Mpi, StartError};

/// The example of the package's page is a test.
#[cfg(all(doctest, feature = "mpi"))]
#[doc = include_str!("../README.md")]
struct Readme;
