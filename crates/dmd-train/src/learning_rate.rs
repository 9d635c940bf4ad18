/// A learning rate as a pure function of the step, so that resuming needs only the step number:
/// linear warm-up from 0, then constant or a cosine down to a tenth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    base: f64,
    warmup_steps: usize,
    decay_steps: Option<usize>,
}

impl LearningRate {
    /// Warm-up over `warmup_steps`, then constant.
    pub fn constant(base: f64, warmup_steps: usize) -> Self {
        Self { base, warmup_steps, decay_steps: None }
    }

    /// Warm-up over `warmup_steps`, then a half cosine that reaches a tenth of `base` at `steps`.
    pub fn cosine(base: f64, warmup_steps: usize, steps: usize) -> Self {
        Self { base, warmup_steps, decay_steps: Some(steps) }
    }

    /// The highest rate.
    pub(crate) fn peak(&self) -> f64 {
        self.base
    }

    /// The rate of a step, counted from 0: 0 at step 0 when there is a warm-up.
    ///
    /// ```
    /// let rate = dmd_train::LearningRate::constant(2.0, 500);
    /// assert_eq!((rate.at(0), rate.at(250), rate.at(500)), (0.0, 1.0, 2.0));
    /// ```
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.base * step as f64 / self.warmup_steps as f64;
        }
        let Some(steps) = self.decay_steps.filter(|steps| *steps > self.warmup_steps) else {
            return self.base;
        };
        let done = (step - self.warmup_steps) as f64 / (steps - self.warmup_steps) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos());
        self.base * (0.1 + 0.9 * cosine)
    }
}
