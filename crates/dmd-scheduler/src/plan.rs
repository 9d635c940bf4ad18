//! From a configuration and a number of steps to a [`Walk`]: the grids of each sampler, the same
//! numbers as diffusers' `set_timesteps`.

use dmd_core::Level;

use crate::method::{End, Grid, Method, Sigmas};
use crate::solver::Solver;
use crate::walk::Step;
use crate::{DiscreteSchedule, Error, Sampler, SchedulerConfig, Spacing, Steps, Walk, grid};

impl SchedulerConfig {
    /// The walk of the configured sampler.
    ///
    /// # Errors
    ///
    /// As [`Self::sampler`]; [`Error::Steps`] when the schedule has not as many times, [`Error::Repeated`] when the
    /// sampler's grid would visit a level twice, [`Error::Timesteps`] for a list that does not descend within the
    /// schedule.
    pub fn walk(&self, steps: impl Into<Steps>) -> Result<Walk, Error> {
        let steps = steps.into();
        let method = self.method.clone()?;
        self.check_steps(&steps, method)?;
        let schedule = self.schedule();
        let spacing = self.own_spacing();
        let (levels, scale) = match method.grid {
            Grid::Whole => (self.whole(&steps, &schedule)?, 1.0),
            Grid::Consistency { original } => (self.consistency(&steps, original, &schedule)?, 1.0),
            Grid::Fractional(sigmas) => {
                let levels = self.fractional(&steps, sigmas, &schedule);
                // diffusers starts from `sigma · z` where the grid begins at the very end of the schedule.
                let scale = if spacing == Spacing::Leading { 1.0 } else { levels[0].sigma };
                (levels, scale)
            }
            Grid::Open(sigmas, bound) => (self.open(&steps, sigmas, bound, &schedule)?, 1.0),
        };
        let end = match method.end {
            End::Clean => Level::CLEAN,
            End::FirstTimestep => schedule.level_at(0),
        };
        let ends = levels.iter().skip(1).copied().chain([end]);
        let mut walk = Walk {
            steps: levels.iter().zip(ends).map(|(from, to)| Step { from: *from, to, via: to }).collect(),
            solver: method.solver,
            initial_scale: scale,
        };
        if let (Sampler::Ddim | Sampler::Pndm, Steps::Count(count)) = (method.sampler, &steps) {
            // These two step by a fixed stride, whatever the rounding of the grid.
            let stride = schedule.count() / count;
            for step in &mut walk.steps {
                let below = (step.from.t as usize).checked_sub(stride);
                step.to = below.map_or(end, |t| schedule.level_at(t));
            }
        }
        if let Solver::Tcd { eta } = method.solver {
            for step in &mut walk.steps {
                // In single precision, as diffusers: 0.7 · 700 is 490 there and 489.99.. in double precision.
                step.via = schedule.level_at(((1.0 - eta) as f32 * step.to.t as f32) as usize);
            }
        }
        if let Grid::Open(..) = method.grid {
            check_levels(&walk.steps, method.sampler)?;
        }
        Ok(walk)
    }

    fn check_steps(&self, steps: &Steps, method: Method) -> Result<(), Error> {
        let max = self.count();
        match steps {
            Steps::Count(count) if *count == 0 || *count > max => Err(Error::Steps { steps: *count, max }),
            Steps::Count(_) => Ok(()),
            Steps::Timesteps(list) => {
                let refuse = |reason: String| Err(Error::Timesteps { timesteps: list.clone(), reason });
                let Some(first) = list.first() else {
                    return refuse("at least one is needed".to_owned());
                };
                if *first >= max {
                    return refuse(format!("the schedule ends at {}", max - 1));
                }
                if list.windows(2).any(|pair| pair[0] <= pair[1]) {
                    return refuse("they must descend".to_owned());
                }
                if let Grid::Fractional(Sigmas::Karras) | Grid::Open(Sigmas::Karras, _) = method.grid {
                    return refuse("Karras sigmas choose their own".to_owned());
                }
                Ok(())
            }
        }
    }

    fn whole(&self, steps: &Steps, schedule: &DiscreteSchedule) -> Result<Vec<Level>, Error> {
        let times = match steps {
            Steps::Timesteps(list) => list.clone(),
            Steps::Count(count) => {
                self.own_spacing().timesteps(*count, schedule.count(), self.steps_offset)?
            }
        };
        Ok(times.into_iter().map(|t| schedule.level_at(t)).collect())
    }

    /// A subset of the grid of `original` timesteps that a consistency model was distilled on.
    fn consistency(
        &self,
        steps: &Steps,
        original: usize,
        schedule: &DiscreteSchedule,
    ) -> Result<Vec<Level>, Error> {
        let count = match steps {
            Steps::Timesteps(list) => return Ok(list.iter().map(|t| schedule.level_at(*t)).collect()),
            Steps::Count(count) => *count,
        };
        if original == 0 || original > schedule.count() || count > original {
            return Err(Error::Steps { steps: count, max: original.min(schedule.count()) });
        }
        let stride = schedule.count() / original;
        let times = (0..count).map(|i| (original - i * original / count) * stride - 1);
        Ok(times.map(|t| schedule.level_at(t)).collect())
    }

    /// k-diffusion's samplers' levels.
    fn fractional(&self, steps: &Steps, sigmas: Sigmas, schedule: &DiscreteSchedule) -> Vec<Level> {
        let ratios = schedule.ratios();
        let times = match steps {
            Steps::Count(count) => {
                grid::fractional(self.own_spacing(), *count, schedule.count(), self.steps_offset)
            }
            Steps::Timesteps(list) => list.iter().map(|t| *t as f64).collect(),
        };
        let levels: Vec<Level> =
            times.iter().map(|t| Level::of_ratio(*t, grid::interpolate(&ratios, *t))).collect();
        match sigmas {
            Sigmas::Timesteps => levels,
            Sigmas::Karras => {
                let (max, min) = (levels[0].ratio(), levels[levels.len() - 1].ratio());
                let sigmas = grid::karras(min, max, levels.len()).into_iter();
                sigmas.map(|s| Level::of_ratio(grid::timestep_of(s, &ratios), s)).collect()
            }
        }
    }

    /// The multi-step solvers' levels.
    fn open(
        &self,
        steps: &Steps,
        sigmas: Sigmas,
        bound: f64,
        schedule: &DiscreteSchedule,
    ) -> Result<Vec<Level>, Error> {
        let ratios = schedule.ratios();
        let count = match steps {
            Steps::Timesteps(list) => return Ok(list.iter().map(|t| schedule.level_at(*t)).collect()),
            Steps::Count(count) => *count,
        };
        if sigmas == Sigmas::Karras {
            let time = |sigma: f64| match grid::timestep_of(sigma, &ratios) {
                // As DPMSolverMultistepScheduler and UniPCMultistepScheduler hand them to the network.
                t if self.is_cosine() && self.sampler() == Ok(Sampler::DpmPlusPlus) => t.floor(),
                t => t.round_ties_even(),
            };
            let sigmas = grid::karras(ratios[0], ratios[ratios.len() - 1], count).into_iter();
            return Ok(sigmas.map(|s| Level::of_ratio(time(s), s)).collect());
        }
        // Timesteps whose lambda is at least the bound; lambda falls with the timestep.
        let kept = ratios.iter().take_while(|ratio| -ratio.ln() >= bound).count();
        if kept < 2 {
            return Err(Error::Unsupported {
                key: "lambda_min_clipped".to_owned(),
                value: bound.to_string(),
                hint: format!("it leaves {kept} of {} timesteps", ratios.len()),
            });
        }
        let times = grid::open_ended(self.own_spacing(), count, kept, ratios.len(), self.steps_offset);
        Ok(times.into_iter().map(|t| Level::of_ratio(t, grid::interpolate(&ratios, t))).collect())
    }
}

/// The multi-step solvers divide by the difference of two levels: it must not be 0.
fn check_levels(steps: &[Step], sampler: Sampler) -> Result<(), Error> {
    match steps.iter().find(|step| step.to.lambda() <= step.from.lambda()) {
        Some(step) => Err(Error::Repeated { sampler, steps: steps.len(), timestep: step.to.t }),
        None => Ok(()),
    }
}
