//! The losses of a distillation's turns: networks and schedule, no optimiser, no randomness, no thread.

use std::fmt;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

use crate::objective::{Lacks, Matched, Networks};
use crate::turn::{Adversary, CriticLoss, Diffusion, Draw, GeneratorLoss, Reals, Targets, Terms};
use crate::{Condition, Denoiser, FakeScore, FewStep, NoiseLevel, NoiseSchedule, adversarial, denoising};

/// How teacher and fake score, neither of which needs the other, are both evaluated:
/// [`one_after_the_other`], or a function that calls both at once on threads.
pub type Both = fn(&(dyn Fn() -> Tensor<4> + Sync), &(dyn Fn() -> Tensor<4> + Sync)) -> [Tensor<4>; 2];

/// Calls the first function, then the second.
pub fn one_after_the_other(
    first: &(dyn Fn() -> Tensor<4> + Sync),
    second: &(dyn Fn() -> Tensor<4> + Sync),
) -> [Tensor<4>; 2] {
    [first(), second()]
}

/// Generator, teacher and fake score of a distillation.
pub struct Distiller<G: Module, R, F, S> {
    /// What is distilled: one network call from noise to sample, or a few.
    pub generator: FewStep<G>,
    /// The frozen score of the real data, guided where guidance is wanted.
    pub teacher: R,
    /// The online score of the generator's samples.
    pub fake: F,
    /// The noise schedule of all three.
    pub schedule: S,
    both: Both,
}

impl<G: Denoiser + Module, R: fmt::Debug, F: fmt::Debug, S: fmt::Debug> fmt::Debug for Distiller<G, R, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distiller")
            .field("levels", &self.generator.levels())
            .field("teacher", &self.teacher)
            .field("fake", &self.fake)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}

/// Makes every trained parameter a leaf of its own.
struct Leaves;

impl ModuleMapper for Leaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let tensor = match tensor.is_require_grad() {
            true => tensor.detach().require_grad(),
            false => tensor,
        };
        Param::from_mapped_value(id, tensor, mapper)
    }
}

impl<C, G, R, F, S> Distiller<G, R, F, S>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module,
    R: Denoiser<Condition = C> + Sync,
    F: FakeScore<Condition = C>,
    S: NoiseSchedule,
{
    /// The parts of a distillation. Teacher and fake score are evaluated one after the other.
    pub fn new(generator: FewStep<G>, teacher: R, fake: F, schedule: S) -> Self {
        Self { generator, teacher, fake, schedule, both: one_after_the_other }
    }

    /// The same distiller with another way to evaluate teacher and fake score.
    pub fn with_both(self, both: Both) -> Self {
        Self { both, ..self }
    }

    /// The same networks as leaves of a graph of their own. Turns that are computed side by side need one each:
    /// graphs that share leaves are one graph to burn, and its backward pass is one thread's.
    pub fn fork(&self) -> Self
    where
        R: Clone,
        S: Clone,
    {
        Self {
            generator: self.generator.map_denoiser(|network| network.map(&mut Leaves)),
            teacher: self.teacher.clone(),
            fake: self.fake.clone().map(&mut Leaves),
            schedule: self.schedule.clone(),
            both: self.both,
        }
    }

    /// The loss of a generator's turn (DMD, algorithm 1; DMD2, section 4).
    ///
    /// Gradients reach the generator's parameters and no others: teacher and fake score run on the plain side.
    /// [`Terms`] without matching is the warm-up by regression alone (DMD2, section 4.5, for one-step SDXL).
    ///
    /// # Errors
    ///
    /// What the objective of the matching term lacks.
    pub fn generator_loss(
        &self,
        draw: &Draw,
        terms: &Terms<'_>,
        condition: &C,
    ) -> Result<GeneratorLoss, Lacks> {
        let x = draw.through(&self.generator, condition); // the only tracked tensor
        let plain = x.clone().without_autodiff();
        // A snapshot without autodiff: samples are tracked through it, its parameters are not.
        let fake = self.fake.valid();
        let (teacher, schedule, both) = (&self.teacher, &self.schedule, self.both);
        let networks = Around { teacher, fake: &fake, schedule, both, condition };
        let matched =
            Matched { x: &x, diffusion: &draw.diffusion, second: draw.second.as_ref(), networks: &networks };
        let matching = terms.matching.map(|objective| objective.loss(&matched)).transpose()?;
        let regression = terms.targets.as_ref().map(|targets| (distance(&x, targets), targets.weight));
        let adversarial = terms.adversary.as_ref().and_then(|Adversary { diffusion, weight }| {
            let logits = self.logits(&fake, x.clone(), diffusion, condition)?;
            Some((adversarial::generator_loss(logits), *weight))
        });
        let weighted = [&regression, &adversarial].into_iter().flatten().map(|(term, by)| term.clone() * *by);
        let total = matching.clone().into_iter().chain(weighted).reduce(|sum, term| sum + term);
        Ok(GeneratorLoss {
            total: total.unwrap_or_else(|| x.mean() * 0.0),
            matching,
            regression: regression.map(|(term, _)| term),
            adversarial: adversarial.map(|(term, _)| term),
            x: plain,
        })
    }

    /// The samples of a turn without anything tracked, for further turns of the fake score.
    pub fn samples(&self, draw: &Draw, condition: &C) -> Tensor<4> {
        draw.through(&self.generator.plain(), condition)
    }

    /// Realism of samples, diffused first.
    fn logits(&self, critic: &F, x: Tensor<4>, diffusion: &Diffusion, condition: &C) -> Option<Tensor<2>> {
        let level = self.schedule.level(diffusion.t.clone());
        let x_t = level.add_noise(x, diffusion.eps.clone());
        critic.logits(x_t, &level, condition)
    }

    /// The critic's side of the adversarial term, for the fake score's turn; `None` where the fake
    /// score has no critic's head. `x` are the generator's samples on the plain side.
    pub fn critic_loss(
        &self,
        x: Tensor<4>,
        diffusion: &Diffusion,
        condition: &C,
        reals: &Reals<C>,
    ) -> Option<CriticLoss> {
        let fake = self.logits(&self.fake, x, diffusion, condition)?;
        let real = self.logits(&self.fake, reals.x0.clone(), &reals.diffusion, &reals.condition)?;
        let mean = |logits: &Tensor<2>| logits.clone().without_autodiff().mean();
        let (real_logit, fake_logit) = (mean(&real), mean(&fake));
        Some(CriticLoss { loss: adversarial::critic_loss(real, fake), real_logit, fake_logit })
    }

    /// The loss of the fake score's turn: denoising of the generator's samples `x`, which are on the plain side,
    /// at times over the whole range.
    pub fn fake_loss(&self, x: Tensor<4>, diffusion: &Diffusion, condition: &C) -> Tensor<1> {
        let level = self.schedule.level(diffusion.t.clone());
        let x_t = level.add_noise(x.clone(), diffusion.eps.clone());
        let x0_hat = self.fake.denoise(x_t, &level, condition);
        denoising::loss(x0_hat, x, self.fake.loss_weight(&level))
    }
}

/// The networks of a distiller around the samples of one turn.
struct Around<'a, C, R, F, S> {
    teacher: &'a R,
    /// A snapshot without autodiff.
    fake: &'a F,
    schedule: &'a S,
    both: Both,
    condition: &'a C,
}

impl<C, R, F, S> Networks for Around<'_, C, R, F, S>
where
    C: Condition,
    R: Denoiser<Condition = C> + Sync,
    F: FakeScore<Condition = C>,
    S: NoiseSchedule,
{
    fn level(&self, diffusion: &Diffusion) -> NoiseLevel {
        self.schedule.level(diffusion.t.clone())
    }

    fn teacher(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Tensor<4> {
        self.teacher.denoise(x_t, level, self.condition)
    }

    fn conditional(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Tensor<4> {
        self.teacher.conditional(x_t, level, self.condition)
    }

    fn branches(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Option<[Tensor<4>; 2]> {
        self.teacher.branches(x_t, level, self.condition)
    }

    fn fake(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Tensor<4> {
        self.fake.denoise(x_t, level, self.condition)
    }

    fn both(&self, x_t: Tensor<4>, level: &NoiseLevel) -> [Tensor<4>; 2] {
        // The closures shall not hold the schedule, which need not be Sync.
        let Self { teacher, fake, condition, .. } = self;
        (self.both)(&|| teacher.denoise(x_t.clone(), level, condition), &|| {
            fake.denoise(x_t.clone(), level, condition)
        })
    }

    fn logits(&self, x_t: Tensor<4>, level: &NoiseLevel) -> Option<Tensor<2>> {
        self.fake.logits(x_t, level, self.condition)
    }
}

/// The regression term: the first rows of `x` against the teacher's samples.
fn distance(x: &Tensor<4>, targets: &Targets<'_>) -> Tensor<1> {
    let [count, ..] = targets.x0.dims();
    targets.distance.of(x.clone().narrow(0, 0, count), targets.x0.clone())
}
