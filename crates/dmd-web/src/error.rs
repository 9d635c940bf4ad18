/// Why a picture cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This build has no device to draw on.
    #[error(transparent)]
    Device(#[from] dmd_kernels::device::UnknownDevice),
    /// Opening the model, or drawing with it.
    #[error(transparent)]
    Infer(#[from] dmd_infer::Error),
    /// Something among a model's files is no file.
    #[error(
        "the entry {name:?} of the model's files is not possible: a name is a string, and its bytes are a Uint8Array"
    )]
    File {
        /// The name as given.
        name: String,
    },
}
