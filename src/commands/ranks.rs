//! A command on several ranks: what a launcher such as `mpirun` started, and how it ends.

use std::env;

use dmd_train::pairs::Share;
use dmd_train::{Alone, Collective};

/// The ranks that a command runs on, seen from one of them.
pub(crate) struct Ranks<'a> {
    /// What they exchange.
    pub(crate) all: &'a dyn Collective,
    /// The number of this rank among those of its machine, and how many these are.
    local: (usize, usize),
}

impl Ranks<'_> {
    /// This rank's share of what needs no exchange.
    pub(crate) fn share(&self) -> Share {
        Share { index: self.all.rank(), count: self.all.size() }
    }

    /// How many ranks this machine has.
    pub(crate) fn on_machine(&self) -> usize {
        self.local.1
    }

    /// Whether this is the rank that writes files and prints.
    pub(crate) fn leads(&self) -> bool {
        self.all.rank() == 0
    }

    /// The device of this rank: of several ranks on one machine each takes a card of its own.
    pub(crate) fn device(&self, name: &str) -> String {
        let (rank, size) = self.local;
        match name {
            "cuda" | "wgpu" | "vulkan" if size > 1 => format!("{name}:{rank}"),
            _ => name.to_owned(),
        }
    }
}

/// A number that a launcher put into the environment.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<usize>;

fn number(name: &str) -> Option<usize> {
    env::var(name).ok()?.trim().parse().ok()
}

/// The place of this process among those that a launcher started together: Open MPI's `mpirun`, MPICH's `mpiexec`, or
/// Slurm's `srun`. Slurm sets its variables in a batch script, too, which runs once; a step has a number.
fn launched(number: Lookup<'_>) -> Option<(usize, usize)> {
    let pair = |rank: &str, size: &str| Some((number(rank)?, number(size)?));
    pair("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE").or_else(|| pair("PMI_RANK", "PMI_SIZE")).or_else(
        || {
            number("SLURM_STEP_ID")?;
            pair("SLURM_PROCID", "SLURM_NTASKS")
        },
    )
}

/// The place of this task in a Slurm job array.
fn in_array(number: Lookup<'_>) -> Option<(usize, usize)> {
    let (id, count) = (number("SLURM_ARRAY_TASK_ID")?, number("SLURM_ARRAY_TASK_COUNT")?);
    let first = number("SLURM_ARRAY_TASK_MIN").unwrap_or(1);
    let step = number("SLURM_ARRAY_TASK_STEP").unwrap_or(1).max(1);
    Some((id.checked_sub(first)? / step, count))
}

/// The share of work without exchange that is this process's, by its launcher and its job array; all of it without them.
fn share_of(number: Lookup<'_>) -> Share {
    let ((task, tasks), (rank, size)) =
        (in_array(number).unwrap_or((0, 1)), launched(number).unwrap_or((0, 1)));
    Share { index: task * size + rank, count: tasks * size }
}

/// The share that a command was given, or else that of its launcher.
///
/// # Errors
///
/// When the launcher's numbers make no sense.
pub(crate) fn share(given: Option<Share>) -> anyhow::Result<Share> {
    let share = given.unwrap_or_else(|| share_of(&number));
    let (index, count) = (share.index + 1, share.count);
    anyhow::ensure!(
        index <= count,
        "the launcher's variables make this share {index} of {count}: give --shard yourself"
    );
    if given.is_none() && count > 1 {
        crate::console::status!("share {index}/{count}, from the launcher's variables");
    }
    Ok(share)
}

/// Whether the launcher asked the ranks to stop.
#[cfg(not(feature = "mpi"))]
pub(crate) fn asked_to_stop() -> bool {
    false
}

/// Runs a command on this process alone.
///
/// # Errors
///
/// What the command returns; that a launcher started several processes, which this build cannot connect.
#[cfg(not(feature = "mpi"))]
pub(crate) fn on_ranks(command: impl FnOnce(&Ranks<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if let Some((_, size @ 2..)) = launched(&number) {
        anyhow::bail!(
            "a launcher started {size} processes, but this build has no MPI: build with `--features mpi`"
        );
    }
    command(&Ranks { all: &Alone, local: (0, 1) })
}

#[cfg(feature = "mpi")]
pub(crate) use with_mpi::{asked_to_stop, on_ranks};

#[cfg(feature = "mpi")]
mod with_mpi {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, OnceLock};
    use std::time::Duration;
    use std::{env, thread};

    use dmd_mpi::Mpi;
    use dmd_train::{Collective, Error};

    use super::{Alone, Ranks};
    use crate::console::{hush, say_err, sentence};

    /// SIGUSR1.
    static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

    pub(crate) fn asked_to_stop() -> bool {
        ASKED.get().is_some_and(|asked| asked.load(Ordering::SeqCst))
    }

    /// What launchers set in the environment of every process.
    const LAUNCHERS: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_ID"];

    /// Longer than it takes the rank that failed to say why.
    const HEARD: Duration = Duration::from_secs(2);

    /// Runs a command on the ranks that a launcher started, or on this process alone. Of several ranks the first is heard.
    /// An error ends the processes of all: a rank that only returned would leave the others waiting for it.
    pub(crate) fn on_ranks(command: impl FnOnce(&Ranks<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        if LAUNCHERS.iter().all(|name| env::var_os(name).is_none()) {
            return command(&Ranks { all: &Alone, local: (0, 1) });
        }
        let mpi = Mpi::start()?;
        ASKED.get_or_init(|| mpi.stop_request());
        let rank = mpi.rank();
        hush(rank > 0);
        let result = command(&Ranks { all: &mpi, local: (mpi.local_rank(), mpi.local_size()) });
        let Err(error) = result else { return Ok(()) };
        if mpi.size() == 1 {
            return Err(error);
        }
        if matches!(error.downcast_ref(), Some(Error::Rank { rank: other, .. }) if *other != rank) {
            thread::sleep(HEARD);
        }
        hush(false);
        say_err!("rank {rank}: error: {}", sentence(&error));
        mpi.abort(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share_in(environment: &[(&str, usize)]) -> (usize, usize) {
        let share = share_of(&|name| environment.iter().find(|(known, _)| *known == name).map(|(_, n)| *n));
        (share.index, share.count)
    }

    #[test]
    fn launchers_give_shares() {
        assert_eq!(share_in(&[]), (0, 1));
        assert_eq!(share_in(&[("OMPI_COMM_WORLD_RANK", 2), ("OMPI_COMM_WORLD_SIZE", 4)]), (2, 4));
        assert_eq!(share_in(&[("PMI_RANK", 0), ("PMI_SIZE", 3)]), (0, 3));
        let slurm = [("SLURM_PROCID", 5), ("SLURM_NTASKS", 8), ("SLURM_STEP_ID", 0)];
        assert_eq!(share_in(&slurm), (5, 8));
        assert_eq!(share_in(&slurm[..2]), (0, 1), "a batch script is one process");
        let array = [("SLURM_ARRAY_TASK_ID", 1), ("SLURM_ARRAY_TASK_COUNT", 8), ("SLURM_ARRAY_TASK_MIN", 1)];
        assert_eq!(share_in(&array), (0, 8));
        let array = [
            ("SLURM_ARRAY_TASK_ID", 4),
            ("SLURM_ARRAY_TASK_COUNT", 3),
            ("SLURM_ARRAY_TASK_MIN", 0),
            ("SLURM_ARRAY_TASK_STEP", 2),
        ];
        assert_eq!(share_in(&array), (2, 3));
        // Each task of an array may start several processes.
        let both: Vec<_> = array.into_iter().chain(slurm).collect();
        assert_eq!(share_in(&both), (2 * 8 + 5, 3 * 8));
    }

    #[test]
    fn ranks_of_a_machine_take_cards_of_their_own() {
        let ranks = |local| Ranks { all: &Alone, local };
        for (name, one, of_four) in
            [("cuda", "cuda", "cuda:2"), ("cuda:1", "cuda:1", "cuda:1"), ("flex", "flex", "flex")]
        {
            assert_eq!(ranks((0, 1)).device(name), one);
            assert_eq!(ranks((2, 4)).device(name), of_four);
        }
    }
}
