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
    /// The samples are too small for a critic's head.
    #[error(
        "a critic needs a bottleneck with an even side of at least 2, and this network's is {side} × {side}; \
         train without a critic, or on larger samples"
    )]
    NoCritic {
        /// Height and width of the bottleneck.
        side: usize,
    },
}
