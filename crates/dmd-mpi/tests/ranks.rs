//! Processes of MPI: each test starts itself again by `mpirun`, with Open MPI's options.

#![cfg(feature = "mpi")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use dmd_mpi::Mpi;
use dmd_train::{Collective, balanced_sum};

/// A test of this file on some ranks. It is killed where it hangs.
fn on_ranks(ranks: usize, test: &str) -> Output {
    Command::new("timeout")
        .args([
            "--kill-after=5",
            "60",
            "mpirun",
            "--allow-run-as-root",
            "--oversubscribe",
            "--bind-to",
            "none",
        ])
        .args(["-n", &ranks.to_string()])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        // Containers refuse copies across processes; Open MPI prints that and goes another way.
        .env("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// A number of a rank whose sums round.
fn value(rank: usize, index: usize) -> f32 {
    let bits = (rank * 7919 + index * 104_729) % 1013;
    (bits as f32 - 500.0) * 10_f32.powi((index % 7) as i32 - 3) / 3.0
}

#[test]
#[ignore = "a rank of `processes_exchange_values`"]
fn exchange() {
    let mpi = Mpi::start().unwrap();
    let (rank, size) = (mpi.rank(), mpi.size());
    assert_eq!((mpi.local_rank(), mpi.local_size()), (rank, size), "one machine");
    // Fewer values than ranks, none, and lengths that ranks do not divide.
    for length in [0, 1, 3, 1000, 1001, 70_003] {
        let of = |rank: usize| (0..length).map(|i| value(rank, i)).collect::<Vec<f32>>();
        let all: Vec<Vec<f32>> = (0..size).map(of).collect();
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let mut sum = of(rank);
        mpi.sum(&mut sum).unwrap();
        assert_eq!(bits(&sum), bits(&balanced_sum(all.iter().map(Vec::as_slice))), "{length} values");
        let mut first = of(rank);
        mpi.broadcast(&mut first).unwrap();
        assert_eq!(bits(&first), bits(&all[0]));
    }
    let gathered = mpi.gather(&[rank as f64, 0.5]).unwrap();
    assert_eq!(gathered, (0..size).flat_map(|rank| [rank as f64, 0.5]).collect::<Vec<_>>());
    mpi.barrier().unwrap();
    println!("rank {rank} of {size} is done");
}

#[test]
#[ignore = "a rank of `a_panic_ends_the_job`"]
fn panic() {
    let mpi = Mpi::start().unwrap();
    assert_ne!(mpi.rank(), 1, "this rank panics");
    mpi.barrier().unwrap();
}

#[test]
#[ignore = "a rank of `an_error_ends_the_job`"]
fn abort() {
    let mpi = Mpi::start().unwrap();
    if mpi.rank() == 1 {
        mpi.abort(3);
    }
    mpi.barrier().unwrap();
}

/// Sums have the order of `balanced_sum`, whatever MPI's own order is.
#[test]
fn processes_exchange_values() {
    for ranks in [1, 2, 3, 4] {
        let output = on_ranks(ranks, "exchange");
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(text(&output).matches("is done").count(), ranks, "{}", text(&output));
    }
}

/// How a job ends in which rank 1 ends while rank 0 waits for it.
fn ends(test: &str) -> (Option<i32>, String) {
    let start = Instant::now();
    let output = on_ranks(2, test);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}: {}", start.elapsed(), text(&output));
    (output.status.code(), text(&output))
}

#[test]
fn a_panic_ends_the_job() {
    let (code, said) = ends("panic");
    assert_eq!(code, Some(101), "{said}");
    assert!(said.contains("rank 1: panicked"), "{said}");
}

#[test]
fn an_error_ends_the_job() {
    let (code, said) = ends("abort");
    assert_eq!(code, Some(3), "{said}");
}
