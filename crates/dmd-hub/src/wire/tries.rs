use std::thread;
use std::time::Duration;

use super::Failure;
use crate::Error;

/// How often a request is made anew before it is given up, when nothing was received in between.
const RETRIES: u32 = 5;

/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(330);

/// The tries that are left.
pub(crate) struct Tries {
    left: u32,
    first_pause: Duration,
    pause: Duration,
}

impl Tries {
    pub(crate) fn new(retries: u32, pause: Duration) -> Self {
        Self { left: retries, first_pause: pause, pause }
    }

    /// Something was received: the next failure is a first one.
    pub(crate) fn renew(&mut self) {
        (self.left, self.pause) = (RETRIES, self.first_pause);
    }

    /// Leaves no more than `count` of them.
    pub(super) fn at_most(&mut self, count: u32) {
        self.left = self.left.min(count);
    }

    /// Waits before the next try, or says that there is none. `go_on` is asked in between.
    pub(crate) fn wait(
        &mut self,
        failure: Failure,
        mut go_on: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (error, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(error, asked) => (error, asked),
        };
        let pause = asked.unwrap_or_default().max(self.pause);
        if self.left == 0 || pause > LONGEST_PAUSE {
            return Err(error);
        }
        self.left -= 1;
        self.pause *= 2;
        sleep(pause, &mut go_on)
    }
}

/// Sleeps in short pieces.
pub(crate) fn sleep(pause: Duration, go_on: &mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error> {
    let mut left = pause;
    while !left.is_zero() {
        go_on()?;
        let piece = left.min(Duration::from_millis(100));
        thread::sleep(piece);
        left -= piece;
    }
    go_on()
}

/// How often a list of files is asked for again.
pub(crate) fn retries(cached: bool) -> u32 {
    // What the cache can answer is not waited for.
    if cached { 0 } else { RETRIES }
}
