/// Why a schedule cannot be made or walked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A scheduler configuration asks for something this implementation does not compute.
    #[error("scheduler configuration: {key} = {value} is not supported; {hint}")]
    Unsupported {
        /// The option.
        key: String,
        /// Its value.
        value: String,
        /// What would be accepted.
        hint: String,
    },
    /// More steps than the schedule has times, or none.
    #[error("{steps} sampling steps: this schedule takes 1 to {max}")]
    Steps {
        /// Steps asked for.
        steps: usize,
        /// Most steps possible.
        max: usize,
    },
}
