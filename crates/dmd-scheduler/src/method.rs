//! A sampler with its options: what of a `scheduler_config.json` belongs to one sampler alone.
//!
//! Options without an effect while what switches them on is off (`dynamic_thresholding_ratio`, `sample_max_value`,
//! `clip_sample_range`, `flow_shift`, `time_shift_type`) are not read; the switches are refused.

use crate::options::Options;
use crate::solver::{Solver, Variance};
use crate::{Error, Sampler, dpm, unipc};

/// How a sampler walks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Method {
    pub(crate) sampler: Sampler,
    pub(crate) solver: Solver,
    pub(crate) grid: Grid,
    pub(crate) end: End,
}

/// Which levels a sampler visits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Grid {
    /// Whole timesteps of the schedule.
    Whole,
    /// A subset of the grid that a consistency model was distilled on.
    Consistency { original: usize },
    /// k-diffusion's, between the first timestep and the last.
    Fractional(Sigmas),
    /// The multi-step solvers': as if there were one more step. Timesteps whose lambda lies below the bound are left
    /// out.
    Open(Sigmas, f64),
}

/// Where a grid's noise levels come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sigmas {
    /// From its timesteps.
    Timesteps,
    /// Karras et al. 2022, eq. 5.
    Karras,
}

/// Where the last step ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Without noise.
    Clean,
    /// At timestep 0.
    FirstTimestep,
}

impl Method {
    /// Parses the options that `sampler` has in diffusers 0.42.1; other samplers' options have no part in it.
    pub(crate) fn parse(sampler: Sampler, options: Options<'_>) -> Result<Self, Error> {
        let (solver, grid, end) = match sampler {
            Sampler::Ddim => (Solver::Ddim, Grid::Whole, Self::ddim(options)?),
            Sampler::Ddpm => (Self::ddpm(options)?, Grid::Whole, End::Clean),
            Sampler::Pndm => (Solver::Pndm, Grid::Whole, Self::pndm(options)?),
            Sampler::Euler => Self::euler(options)?,
            Sampler::EulerAncestral => {
                (Solver::EulerAncestral, Grid::Fractional(Sigmas::Timesteps), End::Clean)
            }
            Sampler::Heun => {
                options.off(&["use_exponential_sigmas", "use_beta_sigmas", "clip_sample"])?;
                (Solver::Heun, Grid::Fractional(sigmas(options)?), End::Clean)
            }
            Sampler::DpmPlusPlus => Self::dpm(options)?,
            Sampler::UniPc => Self::unipc(options)?,
            Sampler::Lcm => Self::lcm(options)?,
            Sampler::Tcd => Self::tcd(options)?,
        };
        Ok(Self { sampler, solver, grid, end })
    }

    fn ddim(options: Options<'_>) -> Result<End, Error> {
        no_clipping(options)?;
        let at_one = options.flag("set_alpha_to_one", true)?;
        Ok(if at_one { End::Clean } else { End::FirstTimestep })
    }

    fn ddpm(options: Options<'_>) -> Result<Solver, Error> {
        no_clipping(options)?;
        let known = [
            ("fixed_small", Variance::Small),
            ("fixed_small_log", Variance::Small),
            ("fixed_large", Variance::Large),
        ];
        Ok(Solver::Ddpm(options.choice("variance_type", &known)?.unwrap_or(Variance::Small)))
    }

    fn pndm(options: Options<'_>) -> Result<End, Error> {
        if !options.flag("skip_prk_steps", false)? {
            return Err(
                options.refused("skip_prk_steps", "set it to true: Runge-Kutta steps are not supported")
            );
        }
        let at_one = options.flag("set_alpha_to_one", false)?;
        Ok(if at_one { End::Clean } else { End::FirstTimestep })
    }

    fn euler(options: Options<'_>) -> Result<(Solver, Grid, End), Error> {
        options.only("interpolation_type", "linear")?;
        options.only("timestep_type", "discrete")?;
        options.off(&["use_exponential_sigmas", "use_beta_sigmas", "sigma_min", "sigma_max"])?;
        Ok((Solver::Euler, Grid::Fractional(sigmas(options)?), final_sigmas(options)?))
    }

    fn dpm(options: Options<'_>) -> Result<(Solver, Grid, End), Error> {
        use dpm::Correction::{Heun, Midpoint};
        options.off(&[
            "thresholding",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "use_lu_lambdas",
            "use_flow_sigmas",
            "use_dynamic_shifting",
        ])?;
        // diffusers takes the words that other multi-step solvers use for its own defaults.
        options.choice("algorithm_type", &[("dpmsolver++", ()), ("deis", ())])?;
        let corrections = [
            ("midpoint", Midpoint),
            ("heun", Heun),
            ("logrho", Midpoint),
            ("bh1", Midpoint),
            ("bh2", Midpoint),
        ];
        if let Some("learned" | "learned_range") = options.text("variance_type")? {
            return Err(
                options.refused("variance_type", "a network that predicts variances is not supported")
            );
        }
        let bound = options.number("lambda_min_clipped", Some(f64::NEG_INFINITY))?;
        let solver = Solver::DpmPlusPlus(dpm::Options {
            order: order(options, 2)?,
            correction: options.choice("solver_type", &corrections)?.unwrap_or(Midpoint),
            lower_order_final: options.flag("lower_order_final", true)?,
            euler_at_final: options.flag("euler_at_final", false)?,
        });
        Ok((solver, Grid::Open(sigmas(options)?, bound), final_sigmas(options)?))
    }

    fn unipc(options: Options<'_>) -> Result<(Solver, Grid, End), Error> {
        use unipc::Basis::{Bh1, Bh2};
        options.off(&[
            "thresholding",
            "solver_p",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "use_flow_sigmas",
            "use_dynamic_shifting",
            "sigma_min",
            "sigma_max",
            "shift_terminal",
        ])?;
        for key in ["lower_order_final", "predict_x0"] {
            if !options.flag(key, true)? {
                return Err(options.refused(key, "set it to true"));
            }
        }
        match options.0.get("disable_corrector").and_then(|value| value.as_array().map(Vec::is_empty)) {
            None if options.is_stated("disable_corrector") => {
                return Err(options.refused("disable_corrector", "it must be an empty list"));
            }
            Some(false) => return Err(options.refused("disable_corrector", "leave it empty")),
            None | Some(true) => {}
        }
        let bases = [("bh1", Bh1), ("bh2", Bh2), ("midpoint", Bh2), ("heun", Bh2), ("logrho", Bh2)];
        let basis = options.choice("solver_type", &bases)?.unwrap_or(Bh2);
        let solver = Solver::UniPc(unipc::Options { order: order(options, 3)?, basis });
        Ok((solver, Grid::Open(sigmas(options)?, f64::NEG_INFINITY), final_sigmas(options)?))
    }

    fn lcm(options: Options<'_>) -> Result<(Solver, Grid, End), Error> {
        options.off(&["clip_sample", "thresholding"])?;
        let original = options.count("original_inference_steps", 50)?;
        let timestep_scaling = options.number("timestep_scaling", Some(10.0))?;
        if !(timestep_scaling.is_finite() && timestep_scaling > 0.0) {
            return Err(options.refused("timestep_scaling", "it must be a positive number"));
        }
        Ok((Solver::Lcm { timestep_scaling }, Grid::Consistency { original }, End::Clean))
    }

    fn tcd(options: Options<'_>) -> Result<(Solver, Grid, End), Error> {
        options.off(&["thresholding"])?;
        let original = options.count("original_inference_steps", 50)?;
        // An argument of diffusers' `step`, with its default; a file of diffusers has no such key.
        let eta = options.number("eta", Some(0.3))?;
        if !(0.0..=1.0).contains(&eta) {
            return Err(options.refused("eta", "it must be from 0 to 1"));
        }
        Ok((Solver::Tcd { eta }, Grid::Consistency { original }, End::FirstTimestep))
    }
}

/// DDIM's and DDPM's switches of clamped samples; diffusers' default is true.
fn no_clipping(options: Options<'_>) -> Result<(), Error> {
    options.off(&["thresholding"])?;
    if options.flag("clip_sample", true)? {
        let hint = "set it to false: latents are not clamped";
        return Err(options.refused("clip_sample", hint));
    }
    Ok(())
}

fn sigmas(options: Options<'_>) -> Result<Sigmas, Error> {
    Ok(if options.flag("use_karras_sigmas", false)? { Sigmas::Karras } else { Sigmas::Timesteps })
}

fn final_sigmas(options: Options<'_>) -> Result<End, Error> {
    let known = [("zero", End::Clean), ("sigma_min", End::FirstTimestep)];
    Ok(options.choice("final_sigmas_type", &known)?.unwrap_or(End::Clean))
}

fn order(options: Options<'_>, most: usize) -> Result<usize, Error> {
    match options.count("solver_order", 2)? {
        order if (1..=most).contains(&order) => Ok(order),
        _ => Err(options.refused("solver_order", format!("it must be from 1 to {most} for this sampler"))),
    }
}
