/// What can go wrong in measuring pictures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A network's files.
    #[error(transparent)]
    Weights(#[from] dmd_weights::Error),
    /// CLIP, or a caption that it cannot take.
    #[error(transparent)]
    Text(#[from] dmd_clip::Error),
}
