/// Why a network cannot be made from its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The files themselves.
    #[error(transparent)]
    Weights(#[from] dmd_weights::Error),
    /// The configuration asks for something this implementation does not compute.
    #[error("{network} configuration: {key} = {value} is not supported{hint}")]
    Unsupported {
        /// `UNet` or `autoencoder`.
        network: &'static str,
        /// The option.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// What would be accepted, if anything can be said.
        hint: String,
    },
}
