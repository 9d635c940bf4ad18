use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dmd_train::{Collective, Error, balanced_sum};
use mpi::collective::CommunicatorCollectives;
use mpi::environment::{Threading, Universe};
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::Root;

/// What a process exits with after a panic, as Rust's programs do.
const PANICKED: i32 = 101;

/// This process as one rank of an MPI job. All methods are called from the thread that made it.
pub struct Mpi {
    world: SimpleCommunicator,
    local_rank: usize,
    local_size: usize,
    asked: Arc<AtomicBool>,
    // Ends MPI when it is dropped, after everything above.
    _universe: Universe,
}

/// MPI cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// MPI was started before, and starts only once in a process.
    #[error("MPI was started before in this process")]
    Twice,
    /// The signal by which a job is asked to stop cannot be received.
    #[error("cannot listen for SIGUSR1")]
    Listen(#[source] std::io::Error),
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mpi")
            .field("rank", &self.rank())
            .field("size", &self.size())
            .field("local_rank", &self.local_rank)
            .finish_non_exhaustive()
    }
}

impl Mpi {
    /// Starts MPI. A process that no launcher started is rank 0 of 1. From now on a panic, of whatever thread, ends the
    /// job, and SIGUSR1 is a request to stop.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn start() -> Result<Self, StartError> {
        let asked = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, asked.clone())
            .map_err(StartError::Listen)?;
        let started = mpi::initialize_with_threading(Threading::Funneled);
        let (universe, _) = started.ok_or(StartError::Twice)?;
        let world = universe.world();
        let rank = world.rank();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            eprintln!("rank {rank}: panicked, which ends the job");
            SimpleCommunicator::world().abort(PANICKED);
        }));
        // The ranks that share this machine's memory.
        let local = world.split_shared(rank);
        let (local_rank, local_size) = (local.rank() as usize, local.size() as usize);
        Ok(Self { world, local_rank, local_size, asked, _universe: universe })
    }

    /// The number of this rank among those of this machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// How many ranks this machine has.
    pub fn local_size(&self) -> usize {
        self.local_size
    }

    /// Set once this process has received SIGUSR1, which `mpirun` passes on to every rank.
    pub fn stop_request(&self) -> Arc<AtomicBool> {
        self.asked.clone()
    }

    /// Whether this process has received SIGUSR1.
    pub fn asked_to_stop(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Ends the processes of all ranks; `mpirun` exits with `code`.
    pub fn abort(&self, code: i32) -> ! {
        self.world.abort(code)
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    /// MPI's own sum adds in an order that depends on the library and on the number of ranks. So each rank gets one slice
    /// of what every rank has, adds it, and gives the sum to all.
    fn sum(&self, values: &mut [f32]) -> Result<(), Error> {
        let size = self.size();
        if size == 1 || values.is_empty() {
            return Ok(());
        }
        let slice = values.len().div_ceil(size);
        let mut padded = values.to_vec();
        padded.resize(slice * size, 0.0);
        let mut received = vec![0.0_f32; slice * size];
        self.world.all_to_all_into(&padded[..], &mut received[..]);
        let sum = balanced_sum(received.chunks_exact(slice));
        self.world.all_gather_into(&sum[..], &mut padded[..]);
        values.copy_from_slice(&padded[..values.len()]);
        Ok(())
    }

    fn broadcast(&self, values: &mut [f32]) -> Result<(), Error> {
        if !values.is_empty() {
            self.world.process_at_rank(0).broadcast_into(values);
        }
        Ok(())
    }

    fn gather(&self, values: &[f64]) -> Result<Vec<f64>, Error> {
        let mut all = vec![0.0; values.len() * self.size()];
        if !values.is_empty() {
            self.world.all_gather_into(values, &mut all[..]);
        }
        Ok(all)
    }

    fn barrier(&self) -> Result<(), Error> {
        self.world.barrier();
        Ok(())
    }
}
