//! From a configuration and a number of steps to a [`Walk`]: the grids of each sampler, the same
//! numbers as diffusers' `set_timesteps`.

use dmd_core::Level;
use serde_json::Value;

use crate::solver::{Solver, Variance};
use crate::walk::Step;
use crate::{DiscreteSchedule, Error, Sampler, SchedulerConfig, Steps, Walk, dpm, grid, unipc};

impl SchedulerConfig {
    /// The walk of the configured sampler.
    ///
    /// # Errors
    ///
    /// As [`Self::validate`]; [`Error::Steps`] when the schedule has not as many times,
    /// [`Error::Timesteps`] for a list that does not descend within the schedule.
    pub fn walk(&self, steps: impl Into<Steps>) -> Result<Walk, Error> {
        self.validate()?;
        let steps = steps.into();
        self.check_steps(&steps)?;
        let schedule = self.schedule();
        let sampler = self.sampler()?;
        let solver = self.solver(sampler)?;
        let (points, end, scale) = match sampler {
            Sampler::Ddim | Sampler::Ddpm | Sampler::Pndm | Sampler::Lcm => {
                let points: Vec<Level> = self
                    .whole_timesteps(sampler, &steps)?
                    .into_iter()
                    .map(|t| schedule.level_at(t))
                    .collect();
                (points, self.end(sampler, &schedule), 1.0)
            }
            Sampler::Euler | Sampler::EulerAncestral | Sampler::Heun => self.k_grid(&steps, &schedule)?,
            Sampler::DpmPlusPlus | Sampler::UniPc => self.open_grid(&steps, &schedule)?,
        };
        let ends = points.iter().skip(1).copied().chain([end]);
        let mut walk = Walk {
            steps: points.iter().zip(ends).map(|(from, to)| Step { from: *from, to }).collect(),
            solver,
            initial_scale: scale,
        };
        if let (Sampler::Ddim | Sampler::Pndm, Steps::Count(count)) = (sampler, &steps) {
            // These two step by a fixed stride, whatever the rounding of the grid.
            let stride = schedule.count() / count;
            for step in &mut walk.steps {
                let below = (step.from.t as usize).checked_sub(stride);
                step.to = below.map_or(end, |t| schedule.level_at(t));
            }
        }
        Ok(walk)
    }

    fn check_steps(&self, steps: &Steps) -> Result<(), Error> {
        let max = self.num_train_timesteps;
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
                if self.flag("use_karras_sigmas") {
                    return refuse("Karras sigmas choose their own".to_owned());
                }
                Ok(())
            }
        }
    }

    fn whole_timesteps(&self, sampler: Sampler, steps: &Steps) -> Result<Vec<usize>, Error> {
        let count = match steps {
            Steps::Timesteps(list) => return Ok(list.clone()),
            Steps::Count(count) => *count,
        };
        if sampler != Sampler::Lcm {
            return self.timesteps(count);
        }
        // A subset of the grid that the consistency model was distilled on.
        let original = self.number("original_inference_steps", 50.0) as usize;
        if original == 0 || original > self.num_train_timesteps || count > original {
            return Err(Error::Steps { steps: count, max: original });
        }
        let stride = self.num_train_timesteps / original;
        Ok((0..count).map(|i| (original - i * original / count) * stride - 1).collect())
    }

    /// Where the last step of a sampler with a table of whole timesteps ends.
    fn end(&self, sampler: Sampler, schedule: &DiscreteSchedule) -> Level {
        // LCM ends where it is; DDPM always ends at the data.
        let at_one = self.set_alpha_to_one.unwrap_or(sampler != Sampler::Pndm);
        match sampler {
            Sampler::Ddim | Sampler::Pndm if !at_one => schedule.level_at(0),
            _ => Level::CLEAN,
        }
    }

    fn last_point(&self, schedule: &DiscreteSchedule) -> Level {
        match self.other.get("final_sigmas_type").and_then(Value::as_str) {
            Some("sigma_min") => schedule.level_at(0),
            _ => Level::CLEAN,
        }
    }

    /// Points, end and scale of the first sample for k-diffusion's samplers.
    fn k_grid(&self, steps: &Steps, schedule: &DiscreteSchedule) -> Result<(Vec<Level>, Level, f64), Error> {
        let ratios = schedule.ratios();
        let times = match steps {
            Steps::Count(count) => {
                grid::fractional(self.spacing()?, *count, schedule.count(), self.steps_offset)
            }
            Steps::Timesteps(list) => list.iter().map(|t| *t as f64).collect(),
        };
        let mut points: Vec<Level> =
            times.iter().map(|t| Level::of_ratio(*t, grid::interpolate(&ratios, *t))).collect();
        if self.flag("use_karras_sigmas") {
            let (max, min) = (points[0].ratio(), points[points.len() - 1].ratio());
            let sigmas = grid::karras(min, max, points.len());
            points = sigmas.iter().map(|s| Level::of_ratio(grid::timestep_of(*s, &ratios), *s)).collect();
        }
        // diffusers starts from `sigma · z` where the grid begins at the very end of the schedule.
        let scale = match self.spacing()? {
            crate::Spacing::Leading => 1.0,
            _ => points[0].sigma,
        };
        Ok((points, self.last_point(schedule), scale))
    }

    /// Points, end and scale of the first sample for the multi-step solvers.
    fn open_grid(
        &self,
        steps: &Steps,
        schedule: &DiscreteSchedule,
    ) -> Result<(Vec<Level>, Level, f64), Error> {
        let ratios = schedule.ratios();
        let points = match steps {
            Steps::Count(count) if self.flag("use_karras_sigmas") => {
                let sigmas = grid::karras(ratios[0], ratios[ratios.len() - 1], *count);
                let time = |sigma: f64| grid::timestep_of(sigma, &ratios).round_ties_even();
                sigmas.iter().map(|s| Level::of_ratio(time(*s), *s)).collect()
            }
            Steps::Count(count) => {
                grid::open_ended(self.spacing()?, *count, schedule.count(), self.steps_offset)
                    .into_iter()
                    .map(|t| Level::of_ratio(t, grid::interpolate(&ratios, t)))
                    .collect()
            }
            Steps::Timesteps(list) => list.iter().map(|t| schedule.level_at(*t)).collect(),
        };
        Ok((points, self.last_point(schedule), 1.0))
    }

    fn solver(&self, sampler: Sampler) -> Result<Solver, Error> {
        let order = self.number("solver_order", 2.0) as usize;
        let lower_order_final = self.other.get("lower_order_final").and_then(Value::as_bool).unwrap_or(true);
        Ok(match sampler {
            Sampler::Ddim => Solver::Ddim,
            Sampler::Pndm => Solver::Pndm,
            Sampler::Euler => Solver::Euler,
            Sampler::EulerAncestral => Solver::EulerAncestral,
            Sampler::Heun => Solver::Heun,
            Sampler::Ddpm => Solver::Ddpm(
                match self.choice("variance_type", &["fixed_small", "fixed_small_log", "fixed_large"])? {
                    "fixed_large" => Variance::Large,
                    _ => Variance::Small,
                },
            ),
            Sampler::Lcm => Solver::Lcm { timestep_scaling: self.number("timestep_scaling", 10.0) },
            Sampler::DpmPlusPlus => {
                self.choice("algorithm_type", &["dpmsolver++"])?;
                if !(1..=2).contains(&order) {
                    return Err(self.refusal("solver_order", "1 and 2 are"));
                }
                Solver::DpmPlusPlus(dpm::Options {
                    order,
                    correction: match self.choice("solver_type", &["midpoint", "heun"])? {
                        "heun" => dpm::Correction::Heun,
                        _ => dpm::Correction::Midpoint,
                    },
                    lower_order_final,
                    euler_at_final: self.flag("euler_at_final"),
                })
            }
            Sampler::UniPc => {
                if !(1..=3).contains(&order) {
                    return Err(self.refusal("solver_order", "1 to 3 are"));
                }
                if !lower_order_final {
                    return Err(self.refusal("lower_order_final", "set it to true"));
                }
                if self.other.get("predict_x0").is_some_and(|value| value == &Value::Bool(false)) {
                    return Err(self.refusal("predict_x0", "set it to true"));
                }
                Solver::UniPc(unipc::Options {
                    order,
                    basis: match self.choice("solver_type", &["bh2", "bh1"])? {
                        "bh1" => unipc::Basis::Bh1,
                        _ => unipc::Basis::Bh2,
                    },
                })
            }
        })
    }

    /// An option outside the struct that is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.other.get(key) == Some(&Value::Bool(true))
    }

    fn number(&self, key: &str, default: f64) -> f64 {
        self.other.get(key).and_then(Value::as_f64).unwrap_or(default)
    }

    /// One of the known words; the first where the file has none.
    fn choice<'a>(&'a self, key: &str, known: &[&'a str]) -> Result<&'a str, Error> {
        match self.other.get(key) {
            None | Some(Value::Null) => Ok(known[0]),
            Some(Value::String(word)) if known.contains(&word.as_str()) => Ok(word),
            Some(_) => Err(self.refusal(key, &format!("{} is", known.join(" or ")))),
        }
    }

    pub(crate) fn refusal(&self, key: &str, hint: &str) -> Error {
        let value = self.other.get(key).map_or_else(|| "null".to_owned(), Value::to_string);
        Error::Unsupported { key: key.to_owned(), value, hint: hint.to_owned() }
    }
}
