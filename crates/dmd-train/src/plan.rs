//! What a distillation needs, before it starts: memory by item, the work of a step, the disk.

use dmd_data::Dataset;
use dmd_model::Outline;
use dmd_unet::Cost;

use crate::LoraSection;
use crate::captions::different;
use crate::config::{CacheSection, DistillConfig, FrozenPrecision, LatentPrecision, TrainedPrecision};
use crate::ranks::{levels, waiting};

/// Where a distillation runs, and on how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Different captions of the data set; `None` where it cannot be read, or has no list.
    pub captions: Option<usize>,
    /// Whether the device has memory of its own, as a graphics card has.
    pub separate: bool,
    /// Whether the device computes blocks again in the backward pass ([`dmd_kernels::recomputes`]).
    pub recomputes: bool,
    /// Ranks that share the micro-batches.
    pub ranks: usize,
}

/// Which memory something is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The device's: of a CPU, the host's.
    Device,
    /// The host's.
    Host,
}

/// Something that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub what: &'static str,
    /// How large it is.
    pub bytes: u64,
    /// Where it is.
    pub place: Place,
}

/// What a distillation needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What is in memory as long as the run lasts.
    pub lasting: Vec<Item>,
    /// Temporary memory of each part of a step, on the device. The parts run one after another, so only the largest counts.
    pub phases: Vec<Item>,
    /// What is written into the output folder and the cache.
    pub disk: Vec<Item>,
    /// Operations of the matrix products of a step, on one rank.
    pub operations: f64,
}

/// Bytes of a value in single precision.
const SINGLE: u64 = 4;
/// Most bytes of captions' features that are kept without a cache.
const FEATURES: u64 = 1 << 30;
/// The program, its libraries, tokenizer and buffers of the kernels, as measured.
const PROGRAM: u64 = 150 << 20;

/// How many different captions a data set lists; `None` without a list.
pub fn captions(dataset: &dyn Dataset) -> Option<usize> {
    dataset.count().map(|_| different(dataset).len())
}

/// Memory of this machine that a new program can have, in bytes, where the system reports it: Linux does.
pub fn available_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

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

impl Plan {
    /// The plan of a configuration for a teacher of these sizes.
    pub fn new(config: &DistillConfig, outline: &Outline, setting: Setting) -> Self {
        Planner { config, outline, setting }.plan()
    }

    /// The most memory of one kind that is needed at a time, in bytes. On a CPU all is the device's.
    pub fn peak(&self, place: Place) -> u64 {
        let of = |items: &[Item]| -> Vec<u64> {
            items.iter().filter(|item| item.place == place).map(|item| item.bytes).collect()
        };
        of(&self.lasting).into_iter().sum::<u64>() + of(&self.phases).into_iter().max().unwrap_or(0)
    }

    /// Everything on the disk, in bytes.
    pub fn on_disk(&self) -> u64 {
        self.disk.iter().map(|item| item.bytes).sum()
    }

    /// Options with which a configuration needs no more than `limit` bytes of the device, the harmless ones first, and what
    /// it needs with them. Where no options are enough, what it needs with all of them.
    pub fn advice(
        config: &DistillConfig,
        outline: &Outline,
        setting: Setting,
        limit: u64,
    ) -> (Vec<&'static str>, u64) {
        let mut config = config.clone();
        let need = |config: &DistillConfig| Self::new(config, outline, setting).peak(Place::Device);
        let mut least = need(&config);
        let mut named = Vec::new();
        for (option, change) in OPTIONS {
            let mut changed = config.clone();
            change(&mut changed);
            let needed = need(&changed);
            if least > limit && needed < least {
                (config, least) = (changed, needed);
                named.push(option);
            }
        }
        (named, least)
    }
}

type Change = fn(&mut DistillConfig);

/// What makes a distillation smaller, the harmless first.
const OPTIONS: [(&str, Change); 9] = [
    ("generator.parallel = 1", |config| config.generator.parallel = 1),
    ("generator.recompute = true", |config| config.generator.recompute = true),
    ("generator.ema_on_host = true", |config| config.generator.ema_on_host = true),
    ("teacher_precision = \"bf16\"", |config| config.teacher_precision = FrozenPrecision::Brain),
    ("a smaller generator.batch with accumulate so many times larger", |config| {
        // Half of a batch with pairs is drawn anew.
        let least = if config.regression.is_some() { 2 } else { 1 };
        if config.generator.batch > least && config.generator.batch.is_multiple_of(least) {
            config.generator.accumulate *= config.generator.batch / least;
            config.generator.batch = least;
        }
    }),
    ("a [cache] section", |config| {
        let latents = LatentPrecision::default();
        config.cache.get_or_insert_with(|| CacheSection { path: "cache".into(), latents });
    }),
    ("generator.ema_decay = 0", |config| config.generator.ema_decay = 0.0),
    ("precision = \"bf16\"", |config| config.precision = TrainedPrecision::Brain),
    ("a [lora] section", |config| {
        config.lora.get_or_insert_with(LoraSection::default);
    }),
];

struct Planner<'a> {
    config: &'a DistillConfig,
    outline: &'a Outline,
    setting: Setting,
}

impl Planner<'_> {
    fn plan(&self) -> Plan {
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
        add(self.item("moments of the optimisers", 2 * (generator + fake) * SINGLE));
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

    /// Values of a sample.
    fn sample(&self) -> u64 {
        self.outline.sample.iter().map(|size| *size as u64).product()
    }

    /// The graph of a micro-batch through parts of a network, whose gradients are those of `trained` values in all.
    fn graph<'a>(&self, parts: impl Iterator<Item = &'a Cost>, trained: u64) -> Graph {
        let generator = &self.config.generator;
        let again = generator.recompute && self.setting.recomputes;
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
        let together = of_generator.kept() + (3 * call).max(critic);
        let of_generator = together.max(of_generator.peak() + critic / 2);
        let of_fake = self.graph(costs.all(), fake.trained);
        let of_fake = of_fake.peak() + if adversarial { 2 * down(0).kept() } else { 0 };
        let parallel = generator.parallel.min(generator.accumulate) as u64;
        vec![
            self.item("a turn of the generator", of_generator * parallel),
            self.item("a turn of the fake score", of_fake * parallel),
        ]
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
            self.item("checkpoints, one more than are kept", kept * checkpoint),
            self.item("generator and fake score at the end, in half precision", 2 * networks + lora),
        ];
        if let Some(section) = &config.cache {
            let reals = config.adversarial.as_ref().map_or(0, |section| section.reals as u64);
            let value = if section.latents == LatentPrecision::Half { 2 } else { SINGLE };
            items.push(self.item("cached latents of the real samples in use", reals * self.sample() * value));
            if let (Some(count), true) = (self.setting.captions, self.outline.text_encoders > 0) {
                let features = count as u64 * self.outline.features as u64 * SINGLE;
                items.push(self.item("cached features of captions", features));
            }
        }
        if let Some(section) = &config.regression {
            let pairs = 2 * section.pairs as u64 * self.sample() * SINGLE;
            items.push(self.item("pairs", pairs));
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
        // The generator; the guided teacher and the fake score on its sample; the critic's way back to it.
        let mut step = all * (trained(self.generator()) + 3.0);
        step += if adversarial { down * (2.0 + again) } else { 0.0 };
        let updates = config.fake.steps_per_generator_step as f64;
        let of_fake = all + if adversarial { 2.0 * down } else { 0.0 };
        // Every update but the first has samples of its own. A generator of several calls makes the input of one of them by
        // those before it.
        step += updates * trained(self.fake()) * of_fake + (updates - 1.0) * all;
        step += updates * all * config.generator.timesteps.len().saturating_sub(1) as f64 / 2.0;
        let own = config.generator.accumulate.div_ceil(self.setting.ranks.max(1));
        step * (config.generator.batch * own) as f64
    }
}
