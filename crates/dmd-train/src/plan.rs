//! What a distillation needs, before it starts: memory by item, the work of a step, the disk.

mod planner;

use dmd_data::Dataset;
use dmd_model::Outline;

use self::planner::Planner;
use crate::LoraSection;
use crate::captions::different;
use crate::config::{CacheSection, DistillConfig, FrozenPrecision, LatentPrecision, TrainedPrecision};

/// Where a distillation runs, and on how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Different captions of the data set; `None` where these were not counted: then as many as are kept at most.
    pub captions: Option<usize>,
    /// Whether the device has memory of its own, as a graphics card has.
    pub separate: bool,
    /// Whether the device computes blocks again in the backward pass ([`dmd_kernels::recomputes`]).
    pub recomputes: bool,
    /// Ranks that share the micro-batches.
    pub ranks: usize,
}

/// Where something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The device's memory: of a CPU, the host's.
    Device,
    /// The host's memory.
    Host,
    /// Files in the output folder and the cache.
    Disk,
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

/// How many different captions a data set lists; `None` without a list.
pub fn captions(dataset: &dyn Dataset) -> Option<usize> {
    dataset.count().map(|_| different(dataset).len())
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
