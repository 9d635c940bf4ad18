use std::str::FromStr;

use crate::{Error, Spacing};

/// A multi-step sampler of the teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// Denoising diffusion implicit models, `eta = 0` (Song et al. 2021).
    Ddim,
    /// Ancestral sampling (Ho et al. 2020). Draws noise.
    Ddpm,
    /// Pseudo linear multi-step (Liu et al. 2022), as Stable Diffusion 1.x is shipped with.
    Pndm,
    /// Euler's method in k-diffusion's coordinates.
    Euler,
    /// The same with fresh noise in every step. Draws noise.
    EulerAncestral,
    /// Heun's method: two calls of the network per step.
    Heun,
    /// DPM-Solver++, multi-step (Lu et al. 2022).
    DpmPlusPlus,
    /// Predictor and corrector in one (Zhao et al. 2023).
    UniPc,
    /// Latent consistency models' steps (Luo et al. 2023). Draws noise.
    Lcm,
    /// Trajectory consistency distillation's steps (Zheng et al. 2024). Draws noise.
    Tcd,
}

impl Sampler {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Ddim,
        Self::Ddpm,
        Self::Pndm,
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::DpmPlusPlus,
        Self::UniPc,
        Self::Lcm,
        Self::Tcd,
    ];

    /// The short name, as on a command line: `ddim`, `euler-ancestral`, `dpm++`, ..
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Ddpm => "ddpm",
            Self::Pndm => "pndm",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler-ancestral",
            Self::Heun => "heun",
            Self::DpmPlusPlus => "dpm++",
            Self::UniPc => "unipc",
            Self::Lcm => "lcm",
            Self::Tcd => "tcd",
        }
    }

    /// diffusers' class, `_class_name` of a `scheduler_config.json`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Ddim => "DDIMScheduler",
            Self::Ddpm => "DDPMScheduler",
            Self::Pndm => "PNDMScheduler",
            Self::Euler => "EulerDiscreteScheduler",
            Self::EulerAncestral => "EulerAncestralDiscreteScheduler",
            Self::Heun => "HeunDiscreteScheduler",
            Self::DpmPlusPlus => "DPMSolverMultistepScheduler",
            Self::UniPc => "UniPCMultistepScheduler",
            Self::Lcm => "LCMScheduler",
            Self::Tcd => "TCDScheduler",
        }
    }

    /// Whether every step but the last draws noise, so that a picture depends on more than its
    /// first noise.
    pub fn draws_noise(self) -> bool {
        matches!(self, Self::Ddpm | Self::EulerAncestral | Self::Lcm | Self::Tcd)
    }

    /// diffusers' default where a configuration does not name a spacing.
    pub(crate) fn default_spacing(self) -> Spacing {
        match self {
            Self::Ddim | Self::Ddpm | Self::Pndm | Self::Lcm | Self::Tcd => Spacing::Leading,
            _ => Spacing::Linspace,
        }
    }

    /// Whether the table's last entry must keep a trace of signal for this sampler's divisions.
    pub(crate) fn divides_by_alpha(self) -> bool {
        !matches!(self, Self::Ddim | Self::Ddpm | Self::Pndm | Self::Lcm | Self::Tcd)
    }
}

impl FromStr for Sampler {
    type Err = Error;

    /// A short name or a class name.
    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|s| s.name() == name || s.class_name() == name);
        found.ok_or_else(|| Error::Unsupported {
            key: "sampler".to_owned(),
            value: name.to_owned(),
            hint: format!("known are {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}
