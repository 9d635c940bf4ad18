//! The loops of an experiment: a teacher, its samples, and a distillation.
//!
//! Teacher, fake score and generator are the same network with EDM's preconditioning; a generator of one step is
//! called at sigma 80. Constants that are not said to be DMD's are this project's own, chosen so that a row takes a
//! minute.

use burn::module::ModuleDisplay;
use burn::tensor::{Device, Tensor};
use dmd_core::{
    Adversary, Classes, Diffusion, Distiller, Draw, FakeScore, FewStep, Guided, Level, Noise, NoiseSchedule,
    Reals, SquaredError, Targets, Terms, denoising,
};
use dmd_scheduler::{KarrasSchedule, TimeSampler, heun};
use dmd_train::{AdamW, AdamWConfig, Gradients, LearningRate, align, both};

use crate::data::{Batch, Data};
use crate::toy::ClassMlp;
use crate::variants::{Goal, Variant};

/// Pairs of the regression.
const PAIRS: usize = 2000;
/// Updates between two looks at the batch mean.
const LOOK: usize = 25;
/// Times of a matching term: 2 % to 98 % of a thousand.
const MATCHED: std::ops::RangeInclusive<usize> = 20..=980;
/// Weight of the critic's side beside the fake score's loss (DMD2: 1e-2).
const CRITIC: f64 = 1e-2;
/// Share of a teacher's samples whose class is withheld, so that it can be guided.
const WITHHELD: f64 = 0.1;

/// A network of an experiment: teacher, fake score and generator alike.
pub trait Student: FakeScore<Condition = Classes> + ModuleDisplay {
    /// The same network with a fresh critic's head, for samples of a shape.
    fn with_critic(self, shape: [usize; 3], device: &Device) -> Self;
}

impl Student for ClassMlp {
    fn with_critic(self, _shape: [usize; 3], device: &Device) -> Self {
        Self::with_critic(self, device)
    }
}

/// How long an experiment's networks are trained, and on how much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Samples per generator update.
    pub batch: usize,
    /// Training steps of the teacher.
    pub teacher_steps: usize,
    /// Peak learning rate of the teacher.
    pub teacher_rate: f64,
    /// Generator updates.
    pub updates: usize,
    /// Learning rate of generator and fake score.
    pub rate: f64,
    /// Samples that are measured.
    pub measured: usize,
}

fn adam() -> AdamW {
    AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() })
}

/// Trains a teacher from a fresh network on the training side: EDM's loss and times, Adam with a cosine.
pub fn teacher<N: Student>(
    mut network: N,
    data: &dyn Data,
    effort: &Effort,
    seed: u64,
    device: &Device,
) -> N {
    let mut adam = adam();
    let (mut noise, schedule) = (Noise::stream(seed, "teacher"), KarrasSchedule::default());
    let grid = TimeSampler::Grid(schedule.sigmas(1000));
    let rate = LearningRate::cosine(effort.teacher_rate, 100, effort.teacher_steps);
    let batch = 2 * effort.batch;
    let [channels, height, width] = data.shape();
    for step in 0..effort.teacher_steps {
        let Batch { x0, classes } = data.draw(batch, &mut noise, device);
        let kept = classes.map(|classes| {
            let keep = noise.uniform(0.0..=1.0, batch).into_iter().map(|u| f32::from(u >= WITHHELD));
            classes
                * Tensor::<1>::from_floats(keep.collect::<Vec<_>>().as_slice(), device).reshape([batch, 1])
        });
        // Three of four steps at the levels that matter (EDM, table 1), the fourth over the grid.
        let t = match step % 4 {
            3 => grid.draw(batch, &mut noise, device),
            _ => (noise.normal([batch], device) * 1.2 - 1.2).exp(),
        };
        let level = schedule.level(t);
        let x_t = level.add_noise(x0.clone(), noise.normal([batch, channels, height, width], device));
        let x0_hat = network.denoise(x_t, &level, &kept);
        let loss = denoising::loss(x0_hat, x0, network.loss_weight(&level));
        let grads = Gradients::of(loss, &network);
        (network, _) = adam.step(rate.at(step), network, grads);
    }
    network
}

/// The teacher as distillation sees it: plain and guided.
fn guided<N: Student>(teacher: &N, data: &dyn Data, scale: f64, device: &Device) -> Guided<N> {
    let nothing = (data.classes() > 0).then(|| Tensor::zeros([1, data.classes()], device));
    Guided::new(teacher.valid(), nothing, scale)
}

/// Samples of the teacher itself, by Heun's method.
pub fn teacher_samples<N: Student>(
    teacher: &N,
    data: &dyn Data,
    (steps, guidance): (usize, f64),
    count: usize,
    device: &Device,
) -> Batch {
    let (schedule, mut noise) = (KarrasSchedule::default(), Noise::from_seed(5));
    let [channels, height, width] = data.shape();
    let guided = guided(teacher, data, guidance, device);
    let mut rows = Vec::new();
    let classes = data.draw_classes(count, &mut noise, device);
    for start in (0..count).step_by(500) {
        let part = 500.min(count - start);
        let z = noise.normal([part, channels, height, width], device) * schedule.sigma_max;
        let classes = classes.clone().map(|classes| classes.narrow(0, start, part));
        rows.push(heun::sample(&guided, &schedule, steps, z, &classes));
    }
    Batch { x0: Tensor::cat(rows, 0), classes }
}

/// Indices of Karras' grid at which a generator of some steps is called: DMD2's 999, 749, 499, 249 for four.
fn levels(steps: usize) -> Vec<Level> {
    let sigmas = KarrasSchedule::default().sigmas(1000);
    (0..steps).map(|step| Level::of_sigma(sigmas[999 - step * 1000 / steps])).collect()
}

/// Samples of a generator.
fn generator_samples<N: Student>(
    generator: &FewStep<N>,
    data: &dyn Data,
    count: usize,
    noise: &mut Noise,
    device: &Device,
) -> Batch {
    let [channels, height, width] = data.shape();
    let classes = data.draw_classes(count, noise, device);
    let shape = [count, channels, height, width];
    let z = noise.normal(shape, device);
    let x0 = generator.generate(z, &classes, &mut || noise.normal(shape, device));
    Batch { x0, classes }
}

/// A distillation in progress.
struct Distillation<'a, N: Student> {
    d: Distiller<N, Guided<N>, N, KarrasSchedule>,
    variant: &'a Variant,
    data: &'a dyn Data,
    batch: usize,
    noise: Noise,
    all: TimeSampler,
    device: &'a Device,
}

impl<N: Student> Distillation<'_, N> {
    fn shape(&self, batch: usize) -> [usize; 4] {
        let [channels, height, width] = self.data.shape();
        [batch, channels, height, width]
    }

    fn diffusion(&mut self) -> Diffusion {
        let shape = self.shape(self.batch);
        Diffusion::new(&mut self.noise, shape, &self.all, self.device)
    }

    /// Noise, times and classes of a turn; for a generator of several steps also which one, and its input.
    fn turn(&mut self, times: &TimeSampler) -> (Draw, Classes) {
        let (batch, shape) = (self.batch, self.shape(self.batch));
        let mut draw = Draw::new(&mut self.noise, shape, times, self.device);
        let mut classes = self.data.draw_classes(batch, &mut self.noise, self.device);
        let step = if self.variant.steps > 1 { self.noise.below(self.variant.steps) } else { 0 };
        if step > 0 && self.variant.simulated {
            let (noise, device) = (&mut self.noise, self.device);
            let z = noise.normal(shape, device);
            let x0 = self.d.generator.simulate(step, z, &classes, &mut || noise.normal(shape, device));
            draw.later = Some((step, x0));
        } else if step > 0 {
            let real = self.data.draw(batch, &mut self.noise, self.device);
            classes = real.classes;
            draw.later = Some((step, real.x0));
        }
        (draw, classes)
    }

    /// The fake score's loss on samples, with the critic's where there is one.
    fn fake_loss(&mut self, x: Tensor<4>, classes: &Classes) -> Tensor<1> {
        let diffusion = self.diffusion();
        let loss = self.d.fake_loss(x.clone(), &diffusion, classes);
        if self.variant.adversarial == 0.0 {
            return loss;
        }
        let Batch { x0, classes: condition } = self.data.draw(self.batch, &mut self.noise, self.device);
        let reals = Reals { x0, condition, diffusion: self.diffusion() };
        let diffusion = self.diffusion();
        match self.d.critic_loss(x, &diffusion, classes, &reals) {
            Some(critic) => loss + critic.loss * CRITIC,
            None => loss,
        }
    }
}

/// Rows, filled up with so many of the last ones of another tensor.
fn filled_up<const D: usize>(first: Tensor<D>, rest: &Tensor<D>, count: usize) -> Tensor<D> {
    match count {
        0 => first,
        _ => Tensor::cat(vec![first, rest.clone().narrow(0, rest.dims()[0] - count, count)], 0),
    }
}

/// Distils a teacher with a variant of the losses; samples of the generator, and the unrest of its batch
/// mean (the mean change between two looks, times 1000: the brightness curve's jitter).
pub fn distil<N: Student>(
    teacher: &N,
    data: &dyn Data,
    variant: &Variant,
    effort: &Effort,
    seed: u64,
    device: &Device,
) -> (Batch, f64) {
    let schedule = KarrasSchedule::default();
    let mut noise = Noise::stream(seed, "distillation");
    let guided = guided(teacher, data, variant.guidance, device);
    let [channels, height, width] = data.shape();
    let pairs = (variant.regression > 0.0).then(|| {
        let z = noise.normal([PAIRS, channels, height, width], device);
        let classes = data.draw_classes(PAIRS, &mut noise, device);
        let x =
            heun::sample(&guided, &schedule, variant.pair_steps, z.clone() * schedule.sigma_max, &classes);
        (z, x, classes)
    });
    let training = device.clone().autodiff();
    let fake = match variant.adversarial > 0.0 {
        true => Student::with_critic(teacher.clone(), data.shape(), &training),
        false => teacher.clone(),
    };
    let generator = FewStep::new(teacher.clone(), levels(variant.steps)).with_noise_scale(schedule.sigma_max);
    let sigmas = schedule.sigmas(1000);
    let (matched, all) = (TimeSampler::Grid(sigmas[MATCHED].to_vec()), TimeSampler::Grid(sigmas));
    let d = Distiller::new(generator, guided, fake, schedule).with_both(both);
    let mut state = Distillation { d, variant, data, batch: effort.batch, noise, all: all.clone(), device };
    let objective = variant.matching.map(|goal| goal.objective(variant.guidance, &matched));
    let (mut generator_adam, mut fake_adam) = (adam(), adam());
    if let Some(Goal::Identity { .. }) = variant.matching {
        // As SiD trains its generator.
        generator_adam = AdamW::new(AdamWConfig { beta1: 0.0, weight_decay: 0.0, ..AdamWConfig::default() });
    }
    let rate = LearningRate::constant(effort.rate, 100);
    let (mut looks, mut last): (Vec<f64>, Option<Vec<f64>>) = (Vec::new(), None);
    for update in 0..effort.updates {
        let (mut draw, mut classes) = state.turn(&matched);
        if let Some(times) = objective.as_ref().and_then(|objective| objective.second_times()) {
            let shape = state.shape(effort.batch);
            draw.second = Some(Diffusion::new(&mut state.noise, shape, times, device));
        }
        let mut targets = None;
        if let (Some((z, x, labels)), None) = (&pairs, &draw.later) {
            // Regression alone is on pairs; beside a matching term half of a batch is, as in the trainer.
            let paired = if objective.is_some() { effort.batch / 2 } else { effort.batch };
            let first = state.noise.below(PAIRS - paired);
            let fresh = effort.batch - paired;
            draw.z = filled_up(z.clone().narrow(0, first, paired), &draw.z, fresh);
            classes = classes
                .zip(labels.clone())
                .map(|(drawn, labels)| filled_up(labels.narrow(0, first, paired), &drawn, fresh));
            let x0 = x.clone().narrow(0, first, paired);
            targets = Some(Targets { x0, weight: variant.regression, distance: &SquaredError });
        }
        let diffusion = state.diffusion();
        let terms = Terms {
            matching: objective.as_deref(),
            targets,
            adversary: (variant.adversarial > 0.0)
                .then_some(Adversary { diffusion, weight: variant.adversarial }),
        };
        let loss = state.d.generator_loss(&draw, &terms, &classes).expect("the variant has what it needs");
        let grads = Gradients::of(loss.total, &state.d.generator);
        (state.d.generator, _) = generator_adam.step(rate.at(update), state.d.generator, grads);
        if variant.alignment > 0.0 {
            let Distiller { generator, fake, .. } = &mut state.d;
            align(fake, &generator.denoiser, variant.alignment).expect("both are the same network");
        }
        if update % LOOK == 0 {
            let mean: Vec<f64> = loss.x.clone().mean_dim(0).into_data().iter::<f64>().collect();
            if let Some(last) = &last {
                let change: f64 = mean.iter().zip(last).map(|(a, b)| (a - b).abs()).sum();
                looks.push(change / mean.len() as f64);
            }
            last = Some(mean);
        }
        let mut x = loss.x;
        for turn in 0..variant.ratio {
            if turn > 0 {
                let (draw, fresh) = state.turn(&all);
                x = state.d.samples(&draw, &fresh);
                classes = fresh;
            }
            let loss = state.fake_loss(x.clone(), &classes);
            let grads = Gradients::of(loss, &state.d.fake);
            (state.d.fake, _) = fake_adam.step(rate.at(update) * variant.fake_rate, state.d.fake, grads);
        }
    }
    let generator = state.d.generator.plain();
    let samples = generator_samples(&generator, data, effort.measured, &mut Noise::from_seed(5), device);
    (samples, 1e3 * looks.iter().sum::<f64>() / looks.len().max(1) as f64)
}
