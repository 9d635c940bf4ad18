//! The mathematics of a distillation step: networks and schedule, no optimiser, no randomness.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use dmd_core::matching::Weighting;
use dmd_core::{
    Condition, Denoiser, FakeScore, FewStep, Noise, NoiseSchedule, adversarial, denoising, matching,
};
use dmd_scheduler::TimeSampler;
use rayon::prelude::*;

use crate::distance::Distance;

/// All randomness of one turn, drawn before anything is computed.
#[derive(Debug, Clone)]
pub struct Draw {
    /// The generator's input, unit noise `[batch, channels, height, width]`.
    pub z: Tensor<4>,
    /// The noise that diffuses the generator's sample, shaped like `z`.
    pub eps: Tensor<4>,
    /// The times at which it is diffused, `[batch]`.
    pub t: Tensor<1>,
    /// For a generator of several steps, a later one of them and the clean samples that `z` renoises to its
    /// level: what [`FewStep::simulate`] made of other noise, or real samples. `None` is the first step,
    /// on `z` itself.
    pub later: Option<(usize, Tensor<4>)>,
}

impl Draw {
    /// Draws one turn for a batch of a shape.
    pub fn new(noise: &mut Noise, shape: [usize; 4], times: &TimeSampler, device: &Device) -> Self {
        Self {
            z: noise.normal(shape, device),
            eps: noise.normal(shape, device),
            t: times.draw(shape[0], noise, device),
            later: None,
        }
    }

    /// The generator's call that this turn is about.
    fn through<G: Denoiser + Module>(&self, generator: &FewStep<G>, condition: &G::Condition) -> Tensor<4> {
        let z = self.z.clone();
        match &self.later {
            None => generator.first(z, condition),
            Some((step, x0)) => generator.call(*step, generator.renoise(*step, x0.clone(), z), condition),
        }
    }
}

/// Generator, teacher and fake score of a distillation.
#[derive(Debug)]
pub struct Distiller<G: Module, R, F, S> {
    /// What is distilled: one network call from noise to sample, or a few.
    pub generator: FewStep<G>,
    /// The frozen score of the real data, guided where guidance is wanted.
    pub teacher: R,
    /// The online score of the generator's samples.
    pub fake: F,
    /// The noise schedule of all three.
    pub schedule: S,
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

/// Runs `work` on every item, `parallel` of them at a time on the threads of the CPU, and returns the results in
/// order: micro-batches of one update are independent, and small operations share threads badly.
pub fn side_by_side<T: Send, R: Send>(
    items: Vec<T>,
    parallel: usize,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let mut results = Vec::with_capacity(items.len());
    let mut items = items.into_iter();
    loop {
        let group: Vec<T> = items.by_ref().take(parallel.max(1)).collect();
        match group.len() {
            0 => return results,
            1 => results.extend(group.into_iter().map(&work)),
            _ => results.extend(group.into_par_iter().map(&work).collect::<Vec<R>>()),
        }
    }
}

/// Noise and times that diffuse samples for the critic; generated and real ones have their own.
#[derive(Debug, Clone)]
pub struct Diffusion {
    /// Unit noise shaped like the samples.
    pub eps: Tensor<4>,
    /// Times, `[batch]`.
    pub t: Tensor<1>,
}

impl Diffusion {
    /// Draws for a batch of a shape.
    pub fn new(noise: &mut Noise, shape: [usize; 4], times: &TimeSampler, device: &Device) -> Self {
        Self { eps: noise.normal(shape, device), t: times.draw(shape[0], noise, device) }
    }
}

/// The generator's terms.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The distribution matching's weighting; `None` leaves the term out.
    pub matching: Option<Weighting>,
    /// DMD's regression to the teacher's samples.
    pub targets: Option<&'a Targets<'a>>,
    /// DMD2's adversarial term: how samples are diffused for the critic, and its weight (1e-3 for
    /// Stable Diffusion). Without a part where the fake score has no critic's head.
    pub adversary: Option<(&'a Diffusion, f64)>,
}

impl Default for Terms<'_> {
    fn default() -> Self {
        Self { matching: Some(Weighting::Normalised), targets: None, adversary: None }
    }
}

/// Real samples for the critic.
#[derive(Debug, Clone)]
pub struct Reals<C> {
    /// Clean samples, `[batch, ..]`.
    pub x0: Tensor<4>,
    /// What they are conditioned on.
    pub condition: C,
    /// How they are diffused.
    pub diffusion: Diffusion,
}

/// What [`Distiller::generator_loss`] returns.
#[derive(Debug, Clone)]
pub struct GeneratorLoss {
    /// The loss to differentiate, `[1]`.
    pub total: Tensor<1>,
    /// The matching surrogate, `½ · mean g²`; not a metric.
    pub matching: Tensor<1>,
    /// The regression term before its weight, where there are targets.
    pub regression: Option<Tensor<1>>,
    /// The adversarial term before its weight, where there is a critic.
    pub adversarial: Option<Tensor<1>>,
    /// The generator's samples on the plain side, for the fake score's turn.
    pub x: Tensor<4>,
}

/// The teacher's own samples for the first rows of a batch.
#[derive(Debug, Clone)]
pub struct Targets<'a> {
    /// What the teacher's deterministic sampler makes of the first rows of `z`.
    pub x0: Tensor<4>,
    /// Weight of the regression term (DMD: 0.25).
    pub weight: f64,
    /// How far samples are from them.
    pub distance: &'a dyn Distance,
}

/// The critic's side of the adversarial term.
#[derive(Debug, Clone)]
pub struct CriticLoss {
    /// The loss to differentiate, `[1]`.
    pub loss: Tensor<1>,
    /// Mean logit of the real samples.
    pub real_logit: f64,
    /// Mean logit of the generated ones.
    pub fake_logit: f64,
}

impl<C, G, R, F, S> Distiller<G, R, F, S>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module,
    R: Denoiser<Condition = C> + Sync,
    F: FakeScore<Condition = C>,
    S: NoiseSchedule,
{
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
        }
    }

    /// The generator's turn (DMD, algorithm 1; DMD2 without targets): distribution matching, plus
    /// the regression to `targets` where there are any.
    ///
    /// Gradients reach the generator's parameters and no others: teacher and fake score run on the
    /// plain side.
    pub fn generator_loss(&self, draw: &Draw, targets: Option<&Targets<'_>>, condition: &C) -> GeneratorLoss {
        self.generator_loss_of(draw, &Terms { targets, ..Terms::default() }, condition)
    }

    /// [`Self::generator_loss`] of chosen terms (DMD2, section 4). Without any the loss is 0.
    pub fn generator_loss_of(&self, draw: &Draw, terms: &Terms<'_>, condition: &C) -> GeneratorLoss {
        let x = self.generated(draw, condition); // the only tracked tensor
        let plain = x.clone().without_autodiff();
        // A snapshot without autodiff: samples are tracked through it, its parameters are not.
        let fake = self.fake.valid();
        let mut total = x.clone().mean() * 0.0;
        let mut matching = total.zeros_like();
        if let Some(weighting) = terms.matching {
            let level = self.schedule.level(draw.t.clone());
            let x_t = level.add_noise(plain.clone(), draw.eps.clone());
            // Neither needs the other: on a CPU they share the threads better side by side.
            let teacher = &self.teacher;
            let (real_x0, fake_x0) = rayon::join(
                || teacher.denoise(x_t.clone(), &level, condition),
                || fake.denoise(x_t.clone(), &level, condition),
            );
            let gradient = weighting.gradient(plain.clone(), real_x0, fake_x0, &level);
            matching = matching::surrogate_loss(x.clone(), gradient);
            total = total + matching.clone();
        }
        let regression = terms.targets.map(|targets| Self::regression(&x, targets));
        if let (Some(regression), Some(targets)) = (&regression, terms.targets) {
            total = total + regression.clone() * targets.weight;
        }
        let adversarial = terms.adversary.and_then(|(diffusion, _)| {
            let logits = self.logits(&fake, x, diffusion, condition)?;
            Some(adversarial::generator_loss(logits))
        });
        if let (Some(adversarial), Some((_, weight))) = (&adversarial, terms.adversary) {
            total = total + adversarial.clone() * weight;
        }
        GeneratorLoss { total, matching, regression, adversarial, x: plain }
    }

    /// What the generator makes in the call that a turn trains; gradients reach that call alone.
    fn generated(&self, draw: &Draw, condition: &C) -> Tensor<4> {
        draw.through(&self.generator, condition)
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
        let mean =
            |logits: &Tensor<2>| f64::from(logits.clone().without_autodiff().mean().into_scalar::<f32>());
        let (real_logit, fake_logit) = (mean(&real), mean(&fake));
        Some(CriticLoss { loss: adversarial::critic_loss(real, fake), real_logit, fake_logit })
    }

    /// The regression term alone: the warm-up before distribution matching (DMD2, section 4.5, does
    /// so for one-step SDXL).
    pub fn regression_loss(&self, draw: &Draw, targets: &Targets<'_>, condition: &C) -> GeneratorLoss {
        let x = self.generated(draw, condition);
        let regression = Self::regression(&x, targets);
        GeneratorLoss {
            total: regression.clone(),
            matching: regression.zeros_like(),
            regression: Some(regression),
            adversarial: None,
            x: x.without_autodiff(),
        }
    }

    fn regression(x: &Tensor<4>, targets: &Targets<'_>) -> Tensor<1> {
        let [count, ..] = targets.x0.dims();
        targets.distance.of(x.clone().narrow(0, 0, count), targets.x0.clone())
    }

    /// The fake score's turn: the denoising loss on the generator's samples `x`, noise and times of
    /// `draw` (the whole range of times, not the matching term's).
    pub fn fake_loss(&self, x: Tensor<4>, draw: &Draw, condition: &C) -> Tensor<1> {
        let level = self.schedule.level(draw.t.clone());
        let x_t = level.add_noise(x.clone(), draw.eps.clone());
        let x0_hat = self.fake.denoise(x_t, &level, condition);
        denoising::loss(x0_hat, x, self.fake.loss_weight(&level))
    }
}
