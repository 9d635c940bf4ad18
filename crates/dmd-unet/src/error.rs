/// Why a network cannot be made from its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written, or its tensors do not fit.
    #[error(transparent)]
    Weights(#[from] dmd_weights::Error),
    /// The configuration has an option that this implementation does not support.
    #[error("{network} configuration: {key} = {value} is not supported{hint}")]
    Unsupported {
        /// `UNet` or `autoencoder`.
        network: &'static str,
        /// The option.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// Which value would be accepted; empty where that is unknown.
        hint: String,
    },
    /// The bottleneck is too small for a critic's head, or has an odd side.
    #[error(
        "a critic needs a bottleneck with an even side of at least 2, and this network's is {side} × {side}; \
         train without a critic, or on larger samples"
    )]
    NoCritic {
        /// Height and width of the bottleneck.
        side: usize,
    },
}
