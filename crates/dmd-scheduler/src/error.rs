use crate::Sampler;

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
    /// The scheduler's class is not one of [`Sampler::ALL`]: another sampler can walk its schedule.
    #[error("_class_name = {class} is not a sampler known here; choose one with --sampler: {}", names())]
    UnknownSampler {
        /// The class.
        class: String,
    },
    /// So many steps that two of them have the same noise level, which the sampler would divide by.
    #[error(
        "{} cannot take {steps} steps of this schedule: timestep {timestep} comes twice; ask for fewer steps, or choose \
         another sampler, ddim for example",
        .sampler.name()
    )]
    Repeated {
        /// The sampler.
        sampler: Sampler,
        /// Steps asked for.
        steps: usize,
        /// The timestep.
        timestep: f64,
    },
    /// More steps than the schedule has times, or none.
    #[error("{steps} sampling steps: this schedule takes 1 to {max}")]
    Steps {
        /// Steps asked for.
        steps: usize,
        /// Most steps possible.
        max: usize,
    },
    /// A list of timesteps that no walk can take.
    #[error("timesteps {timesteps:?}: {reason}")]
    Timesteps {
        /// The list.
        timesteps: Vec<usize>,
        /// What is wrong with it.
        reason: String,
    },
    /// A strength that leaves no step, or is no share.
    #[error("strength {strength} leaves none of the {steps} steps to do; use a larger one, at most 1")]
    Strength {
        /// The strength asked for.
        strength: f64,
        /// Steps of the whole walk.
        steps: usize,
    },
}

fn names() -> String {
    Sampler::ALL.map(Sampler::name).join(", ")
}
