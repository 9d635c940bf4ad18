use std::thread;
use std::time::Duration;

use super::Failure;
use crate::Error;

/// Maximum number of retries of a request if nothing is received in between.
const RETRIES: u32 = 5;

/// Maximum pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(330);

/// How many retries of a request remain, and the pause before the next one.
pub(crate) struct Tries {
    retries: u32,
    left: u32,
    first_pause: Duration,
    pause: Duration,
}

impl Tries {
    pub(crate) fn new(retries: u32, pause: Duration) -> Self {
        Self { retries, left: retries, first_pause: pause, pause }
    }

    /// Starts the count again, because something was received.
    pub(crate) fn renew(&mut self) {
        (self.left, self.pause) = (self.retries, self.first_pause);
    }

    /// Limits the remaining retries to `count`.
    pub(super) fn at_most(&mut self, count: u32) {
        self.left = self.left.min(count);
    }

    /// Waits before the next retry, or returns the error if there is none left. Calls `go_on` meanwhile.
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

/// Sleeps in short pieces, and calls `go_on` between them.
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

/// Number of retries of a request.
pub(crate) fn retries(cached: bool) -> u32 {
    // If the cache can answer instead, the request is not retried.
    if cached { 0 } else { RETRIES }
}
