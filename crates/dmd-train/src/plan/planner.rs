//! The items of a plan, counted from a configuration and a model's sizes.

use std::path::Path;

use dmd_model::Outline;
use dmd_unet::Cost;
use dmd_weights::weight_file;

use super::{Item, Place, Plan, Setting};
use crate::config::{DistillConfig, FrozenPrecision, LatentPrecision, ObjectiveSection, TrainedPrecision};
use crate::ranks::{levels, waiting};

/// Bytes of a value in single precision.
const SINGLE: u64 = 4;
/// Most bytes of captions' features that are kept without a cache.
const FEATURES: u64 = 1 << 30;
/// The program, its libraries, tokenizer and buffers of the kernels, as measured.
const PROGRAM: u64 = 150 << 20;

/// A network in training.
#[derive(Clone, Copy)]
struct Network {
    /// Values that are trained.
    trained: u64,
    /// What a backward pass does beside the gradients of activations, as a share of a forward pass: the gradients of
    /// weights, where these are trained.
    weights: f64,
}

/// What a graph holds of a network: of each part what it keeps, and the gradients that it makes.
struct Graph {
    parts: Vec<[u64; 3]>,
}

impl Graph {
    /// The most that is held while the parts' gradients are computed from the last to the first.
    fn peak(&self) -> u64 {
        let mut held: u64 = self.kept();
        let mut most = held;
        for [kept, again, gradient] in self.parts.iter().rev() {
            most = most.max(held + again + gradient);
            held = held + gradient - kept;
        }
        most
    }

    fn kept(&self) -> u64 {
        self.parts.iter().map(|[kept, ..]| kept).sum()
    }
}

/// Counts what a plan lists.
pub(super) struct Planner<'a> {
    pub(super) config: &'a DistillConfig,
    pub(super) outline: &'a Outline,
    pub(super) setting: Setting,
}

impl Planner<'_> {
    pub(super) fn plan(&self) -> Plan {
        Plan {
            lasting: self.lasting(),
            phases: self.phases(),
            disk: self.disk(),
            operations: self.operations(),
        }
    }

    /// Parameters of the network.
    fn parameters(&self) -> u64 {
        self.outline.costs.all().map(|cost| cost.parameters as u64).sum()
    }

    fn generator(&self) -> Network {
        match &self.config.lora {
            // The gradients of an update's two matrices, small beside the layer's own product.
            Some(section) => {
                Network { trained: section.count(&self.outline.parameters) as u64, weights: 0.1 }
            }
            None => Network { trained: self.parameters(), weights: 1.0 },
        }
    }

    fn fake(&self) -> Network {
        let critic = self.config.adversarial.as_ref().and(self.outline.critic).unwrap_or(0) as u64;
        let network = self.generator();
        Network { trained: network.trained + critic, ..network }
    }

    /// Bytes of a value of trained networks' activations, and of a network that low-rank updates leave as it is.
    fn value(&self) -> u64 {
        match self.config.precision {
            TrainedPrecision::Single => SINGLE,
            TrainedPrecision::Brain => 2,
        }
    }

    fn teacher_value(&self) -> u64 {
        match self.config.teacher_precision {
            FrozenPrecision::Single => SINGLE,
            FrozenPrecision::Half | FrozenPrecision::Brain => 2,
        }
    }

    fn item(&self, what: &'static str, bytes: u64) -> Item {
        Item { what, bytes, place: Place::Device }
    }

    fn of_host(&self, what: &'static str, bytes: u64) -> Item {
        Item { what, bytes, place: if self.setting.separate { Place::Host } else { Place::Device } }
    }

    fn on_disk(&self, what: &'static str, bytes: u64) -> Item {
        Item { what, bytes, place: Place::Disk }
    }

    fn lasting(&self) -> Vec<Item> {
        let (config, parameters) = (self.config, self.parameters());
        let (generator, fake) = (self.generator().trained, self.fake().trained);
        let mut items = Vec::new();
        let mut add = |item: Item| {
            if item.bytes > 0 {
                items.push(item);
            }
        };
        match &config.lora {
            Some(_) => {
                add(self.item("the network, once for all", parameters * self.value()));
                let same = config.precision.dtype() == config.teacher_precision.dtype();
                let apart = if same { 0 } else { parameters * self.teacher_value() };
                add(self.item("the teacher in its own float type", apart));
                add(self.item("updates of generator and fake score, the critic", (generator + fake) * SINGLE));
            }
            None => {
                add(self.item("the teacher", parameters * self.teacher_value()));
                add(self.item("the generator", generator * SINGLE));
                add(self.item("the fake score with its critic", fake * SINGLE));
            }
        }
        let updated = generator + if self.fake_updates() > 0 { fake } else { 0 };
        add(self.item("moments of the optimisers", 2 * updated * SINGLE));
        let average = if config.generator.ema_decay > 0.0 { generator * SINGLE } else { 0 };
        match config.generator.ema_on_host {
            true => add(self.of_host("the moving average", average)),
            false => add(self.item("the moving average", average)),
        }
        let ranks = self.setting.ranks.max(1);
        let sums = waiting(config.generator.accumulate.div_ceil(ranks), levels(ranks)) as u64;
        add(self.item("sums of gradients over micro-batches", sums * generator.max(fake) * SINGLE));
        add(self.item("text encoders", self.outline.text_encoders as u64 * SINGLE));
        add(self.item("autoencoder", self.outline.autoencoder as u64 * SINGLE));
        add(self.item("networks that measure", self.measuring()));
        let of_sample = self.sample() * SINGLE;
        if config.cache.is_none() {
            let reals = config.adversarial.as_ref().map_or(0, |section| section.reals as u64);
            add(self.item("real samples", reals * of_sample));
            let row = if self.outline.text_encoders > 0 { self.outline.features as u64 * SINGLE } else { 0 };
            let rows = self.setting.captions.map_or(u64::MAX, |count| count as u64);
            add(self.item("features of captions", rows.saturating_mul(row).min(FEATURES)));
        }
        add(self.of_host("the program", PROGRAM));
        items
    }

    /// Bytes of the networks that measure pictures, in the regression term and in evaluations, in single precision. A file
    /// that is not there is missed when the run opens it.
    fn measuring(&self) -> u64 {
        let perceptual = self.config.regression.as_ref().and_then(|section| section.perceptual.as_ref());
        let evaluation = self.config.evaluation.as_ref();
        // Of torchvision's networks LPIPS reads the feature extractor.
        let trunk = perceptual.map(|section| size(&section.trunk, "features."));
        let folders = [
            perceptual.and_then(|section| section.taesd.as_ref()),
            evaluation.and_then(|section| section.inception.as_ref()),
            evaluation.and_then(|section| section.clip.as_ref()),
        ];
        trunk.unwrap_or(0) + folders.into_iter().flatten().map(|path| size(path, "")).sum::<u64>()
    }

    /// Updates of the fake score in a step: none where the warm-up by regression lasts to the end.
    fn fake_updates(&self) -> usize {
        let warm_up = self.config.regression.as_ref().map_or(0, |section| section.warmup_steps);
        if warm_up < self.config.pace.steps { self.config.fake.steps_per_generator_step } else { 0 }
    }

    fn guided(&self) -> bool {
        self.config.guidance_scale != 1.0
    }

    /// Forward passes of frozen networks for the generator's samples: those of the guided teacher and the fake score, and what
    /// an objective asks for beside; a backward pass counts for one.
    fn frozen_passes(&self) -> f64 {
        let teacher = if self.guided() { 2.0 } else { 1.0 };
        match self.config.matching.objective {
            ObjectiveSection::DistributionMatching => teacher + 1.0,
            // The critic looks at the samples once more, through half of the network.
            ObjectiveSection::FDivergence(_) => teacher + 1.5,
            // The teacher under the condition, and both branches at the other level.
            ObjectiveSection::DecoupledGuidance { .. } => 1.0 + 1.0 + teacher,
            ObjectiveSection::ScoreIdentity { .. } => 2.0 * (teacher + 1.0),
        }
    }

    /// Values of a sample.
    fn sample(&self) -> u64 {
        self.outline.sample.iter().map(|size| *size as u64).product()
    }

    /// The graph of a micro-batch through parts of a network, whose gradients are those of `trained` values in all.
    fn graph<'a>(&self, parts: impl Iterator<Item = &'a Cost>, trained: u64) -> Graph {
        self.graph_of(parts, trained, self.config.generator.recompute && self.setting.recomputes)
    }

    /// [`Self::graph`] of a network that computes its blocks again in the backward pass, or does not.
    fn graph_of<'a>(&self, parts: impl Iterator<Item = &'a Cost>, trained: u64, again: bool) -> Graph {
        let generator = &self.config.generator;
        let batch = generator.batch as u64;
        let all = self.parameters().max(1);
        let part = |cost: &Cost| {
            let values = |count: usize| count as u64 * batch * self.value();
            let gradient = (u128::from(trained) * cost.parameters as u128 / u128::from(all)) as u64 * SINGLE;
            match again {
                true => [values(cost.output), values(cost.kept), gradient],
                false => [values(cost.kept), 0, gradient],
            }
        };
        Graph { parts: parts.map(part).collect() }
    }

    fn phases(&self) -> Vec<Item> {
        let (costs, generator) = (&self.outline.costs, &self.config.generator);
        let (turn, fake) = (self.generator(), self.fake());
        let adversarial = self.config.adversarial.is_some();
        let down = |trained| self.graph(costs.down.iter(), trained);
        // A plain call of a network frees what it made: half of the largest part is there at a time, and all skips.
        let largest = costs.all().map(|cost| cost.kept).max().unwrap_or(0) as u64;
        let skips: u64 = costs.down.iter().map(|cost| cost.output as u64).sum();
        let call = (largest / 2 + skips) * generator.batch as u64 * SINGLE;
        // The guided teacher has two samples for one, and the fake score is called beside it.
        let of_generator = self.graph(costs.all(), turn.trained);
        let critic = if adversarial { down(0).kept() } else { 0 };
        let calls = if self.fake_updates() > 0 { 3 * call } else { 0 };
        // SiD's gradient goes through the fake score and the teacher, under guidance with two samples for one; they keep what
        // the generator does, the teacher also where blocks are computed again.
        let through = match self.config.matching.objective {
            ObjectiveSection::ScoreIdentity { .. } => {
                let plain = self.graph_of(costs.all(), 0, false).kept();
                self.graph(costs.all(), 0).kept() + plain * if self.guided() { 2 } else { 1 }
            }
            _ => 0,
        };
        let together = of_generator.kept() + through + calls.max(critic);
        let of_generator = together.max(of_generator.peak() + critic / 2);
        let of_fake = self.graph(costs.all(), fake.trained);
        let of_fake = of_fake.peak() + if adversarial { 2 * down(0).kept() } else { 0 };
        let parallel = generator.parallel.min(generator.accumulate) as u64;
        let mut phases = vec![self.item("a turn of the generator", of_generator * parallel)];
        if self.fake_updates() > 0 {
            phases.push(self.item("a turn of the fake score", of_fake * parallel));
        }
        phases
    }

    fn disk(&self) -> Vec<Item> {
        let config = self.config;
        let (generator, fake) = (self.generator().trained, self.fake().trained);
        let average = if config.generator.ema_decay > 0.0 { generator } else { 0 };
        // Parameters and two moments each.
        let checkpoint = (3 * (generator + fake) + average) * SINGLE;
        // One more is there while the newest is written.
        let kept = config.pace.keep as u64 + 1;
        let networks = 2 * self.parameters();
        let lora = if config.lora.is_some() { 2 * 3 * generator } else { 0 };
        let mut items = vec![
            self.on_disk("checkpoints, one more than are kept", kept * checkpoint),
            self.on_disk("generator and fake score at the end, in half precision", 2 * networks + lora),
        ];
        if let Some(section) = &config.cache {
            let reals = config.adversarial.as_ref().map_or(0, |section| section.reals as u64);
            let value = if section.latents == LatentPrecision::Half { 2 } else { SINGLE };
            items.push(
                self.on_disk("cached latents of the real samples in use", reals * self.sample() * value),
            );
            if let (Some(count), true) = (self.setting.captions, self.outline.text_encoders > 0) {
                let features = count as u64 * self.outline.features as u64 * SINGLE;
                items.push(self.on_disk("cached features of captions", features));
            }
        }
        if let Some(section) = &config.regression {
            let pairs = 2 * section.pairs as u64 * self.sample() * SINGLE;
            items.push(self.on_disk("pairs", pairs));
        }
        items
    }

    /// Operations of a step: a forward pass is 1, its backward pass 1 for the activations and 1 for the weights.
    fn operations(&self) -> f64 {
        let (config, costs) = (self.config, &self.outline.costs);
        let sum = |parts: &[Cost]| parts.iter().map(|cost| cost.operations).sum::<f64>();
        let down = sum(&costs.down);
        let all = down + sum(&costs.up);
        let again = if config.generator.recompute && self.setting.recomputes { 1.0 } else { 0.0 };
        let trained = |network: Network| 2.0 + network.weights + again;
        let adversarial = config.adversarial.is_some();
        let own = config.generator.accumulate.div_ceil(self.setting.ranks.max(1));
        let samples = (config.generator.batch * own) as f64;
        let updates = self.fake_updates() as f64;
        if updates == 0.0 {
            return all * trained(self.generator()) * samples;
        }
        // The generator; the guided teacher and the fake score on its sample; the critic's way back to it.
        let mut step = all * (trained(self.generator()) + self.frozen_passes());
        step += if adversarial { down * (2.0 + again) } else { 0.0 };
        let of_fake = all + if adversarial { 2.0 * down } else { 0.0 };
        // Every update but the first has samples of its own. A generator of several calls makes the input of one of them by
        // those before it.
        step += updates * trained(self.fake()) * of_fake + (updates - 1.0) * all;
        step += updates * all * config.generator.timesteps.len().saturating_sub(1) as f64 / 2.0;
        step * samples
    }
}

/// Bytes in single precision of a file's tensors whose names begin in a way, or of those of a folder's weight file.
fn size(path: &Path, prefix: &str) -> u64 {
    let stems = ["diffusion_pytorch_model", "model"];
    let file = if path.is_dir() { weight_file(path, &stems).ok() } else { Some(path.to_owned()) };
    let Some(tensors) = file.and_then(|file| dmd_weights::read(&file).ok()) else { return 0 };
    let own = tensors.entries().iter().filter(|(name, _)| name.starts_with(prefix));
    own.map(|(_, entry)| entry.len() as u64 * SINGLE).sum()
}
