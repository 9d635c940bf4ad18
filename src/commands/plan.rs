use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use burn::tensor::{Device, Distribution, Tensor};
use clap::Args;
use dmd_kernels::{device, memory};
use dmd_model::{OpenOptions, Outline, Source};
use dmd_train::config::DistillConfig;
use dmd_train::plan::{Item, Place, Plan, Setting};
use serde_json::json;

use super::JsonArgs;
use super::distill::measured_step;
use super::ranks::Ranks;
use crate::console::say;

/// Print what a distillation needs, and whether it fits: memory, time and disk
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Configuration file (TOML), e.g. configs/sd15-one-step.toml
    config: PathBuf,
    /// Plan for a published architecture instead of the teacher that the configuration names: sd15, sd21 or sdxl
    #[arg(long)]
    teacher: Option<String>,
    /// Device to plan for
    #[arg(long, default_value = "flex")]
    device: String,
    /// Ranks that share the micro-batches
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    ranks: u16,
    /// Measure two steps with one micro-batch on the device instead of estimating; needs the teacher and the data
    #[arg(long, conflicts_with = "teacher")]
    measure: bool,
    #[command(flatten)]
    print: JsonArgs,
}

/// Of a plain product's speed, what the training of a network reaches, measured with Stable Diffusion 1.5 on flex (see
/// docs/src/resources.md); the kernels between products, and smaller products, take the rest.
const REACHED: f64 = 0.33;

pub(crate) fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let config = DistillConfig::from_file(&args.config)?;
    let device = device::open(&args.device)?;
    let outline = match &args.teacher {
        None => outline(&config, &device).with_context(|| {
            format!(
                "the teacher {} cannot be read; --teacher {} plans for a published one",
                config.teacher.display(),
                Outline::PUBLISHED.join("|"),
            )
        })?,
        Some(name) => Outline::published(name, &device).with_context(|| {
            format!("no published architecture {name:?}: {} are known", Outline::PUBLISHED.join(", "))
        })??,
    };
    let setting = Setting { captions: captions(&config), ..setting(&device, usize::from(args.ranks)) };
    anyhow::ensure!(
        config.generator.accumulate.is_multiple_of(setting.ranks),
        "{} ranks cannot share {} micro-batches equally",
        setting.ranks,
        config.generator.accumulate
    );
    let plan = Plan::new(&config, &outline, setting);
    if args.print.json {
        return as_json(args, &config, &outline, setting, &device, &plan);
    }
    let own = if setting.separate { "the device" } else { "memory" };
    say!("of {own}, as long as the run lasts:");
    lines(plan.lasting.iter().filter(|item| item.place == Place::Device));
    say!("beside it, one after the other:");
    lines(plan.phases.iter());
    say!("{:>9} GiB at most", gib(plan.peak(Place::Device)));
    if setting.separate {
        say!("of the host:");
        lines(plan.lasting.iter().filter(|item| item.place == Place::Host));
    }
    say!("on the disk:");
    lines(plan.disk.iter());
    say!("{:>9} GiB in all", gib(plan.on_disk()));
    let (work, steps) = (plan.operations / 1e12, config.pace.steps);
    let refusal = refusal(&config, &outline, setting, &device, 1);
    let (seconds, product) = step_seconds(args, &config, setting, &device, &plan, refusal.as_deref())?;
    match product {
        None => say!("{work:.1} TFLOP a step: {}, as measured", duration(seconds)),
        Some(product) => {
            say!(
                "{work:.1} TFLOP a step: about {}, if training reaches {:.0} of the {:.0} GFLOP/s of a large product here",
                duration(seconds),
                product * REACHED / 1e9,
                product / 1e9
            );
        }
    }
    say!("{} for {steps} steps", duration(seconds * steps as f64));
    match refusal {
        Some(refusal) => say!("{refusal}"),
        None => {
            if let Some(limit) = limit(&device, 1) {
                let who = if setting.ranks > 1 { "one rank" } else { "it" };
                say!("{who} fits: {} GiB are free", gib(limit));
            }
        }
    }
    Ok(())
}

/// Seconds of a step: measured, or estimated from a product's operations per second, which are then returned too.
fn step_seconds(
    args: &PlanArgs,
    config: &DistillConfig,
    setting: Setting,
    device: &Device,
    plan: &Plan,
    refusal: Option<&str>,
) -> anyhow::Result<(f64, Option<f64>)> {
    if !args.measure {
        let product = speed(device);
        return Ok((plan.operations / (product * REACHED), Some(product)));
    }
    if let Some(refusal) = refusal {
        anyhow::bail!("no step can be measured: {refusal}");
    }
    Ok((measured_step(config, setting.ranks, device)?, None))
}

/// The same as one object: bytes, seconds, operations.
fn as_json(
    args: &PlanArgs,
    config: &DistillConfig,
    outline: &Outline,
    setting: Setting,
    device: &Device,
    plan: &Plan,
) -> anyhow::Result<()> {
    let items = |all: &[Item], place: Option<Place>| {
        let all = all.iter().filter(|item| place.is_none_or(|place| item.place == place));
        all.map(|item| json!({"what": item.what, "bytes": item.bytes})).collect::<Vec<_>>()
    };
    let refusal = refusal(config, outline, setting, device, 1);
    let (seconds, _) = step_seconds(args, config, setting, device, plan, refusal.as_deref())?;
    let line = json!({
        "lasting": items(&plan.lasting, Some(Place::Device)), "phases": items(&plan.phases, None),
        "host": items(&plan.lasting, Some(Place::Host)), "disk": items(&plan.disk, None),
        "peak_bytes": plan.peak(Place::Device), "host_bytes": plan.peak(Place::Host), "disk_bytes": plan.on_disk(),
        "free_bytes": limit(device, 1), "operations_per_step": plan.operations, "steps": config.pace.steps,
        "seconds_per_step": seconds, "measured": args.measure, "fits": refusal.is_none(), "refusal": refusal,
    });
    say!("{line}");
    Ok(())
}

/// Refuses a distillation that cannot fit, before its teacher is read.
pub(crate) fn check(config: &DistillConfig, device: &Device, ranks: &Ranks<'_>) -> anyhow::Result<()> {
    let (outline, setting) = (outline(config, device)?, setting(device, ranks.all.size()));
    let refusal = |setting| refusal(config, &outline, setting, device, ranks.on_machine());
    // The captions are counted only where the answer may hang on them: it takes opening the data once more.
    let refused = refusal(setting).and_then(|_| refusal(Setting { captions: captions(config), ..setting }));
    match refused {
        Some(refusal) => anyhow::bail!("{refusal}; --anyway starts it all the same"),
        None => Ok(()),
    }
}

fn outline(config: &DistillConfig, device: &Device) -> anyhow::Result<Outline> {
    let options = OpenOptions::new(&config.teacher, device);
    Ok(Outline::read(&Source::open(&options)?, device)?)
}

/// The setting on a device, without a count of captions.
fn setting(device: &Device, ranks: usize) -> Setting {
    let separate = device::properties(device).hardware.is_some();
    Setting { captions: None, separate, recomputes: dmd_kernels::recomputes(device), ranks }
}

/// How many different captions the data have; what is wrong with them is said when they are needed.
fn captions(config: &DistillConfig) -> Option<usize> {
    dmd_train::plan::captions(config.data.open().ok()?.as_ref())
}

/// The memory that one of so many ranks on a machine may take, where the system reports it.
fn limit(device: &Device, ranks: usize) -> Option<u64> {
    device::properties(device).memory.or_else(|| Some(memory::available()? / ranks as u64))
}

/// Why a distillation cannot fit, and what makes it fit.
fn refusal(
    config: &DistillConfig,
    outline: &Outline,
    setting: Setting,
    device: &Device,
    ranks: usize,
) -> Option<String> {
    let limit = limit(device, ranks)?;
    let plan = Plan::new(config, outline, setting);
    let of_host = plan.peak(Place::Host);
    let host = memory::available().map_or(u64::MAX, |free| free / ranks as u64);
    if of_host > host {
        let (needed, free) = (gib(of_host), gib(host));
        return Some(format!("this needs {needed} GiB of the host's memory, and {free} GiB are free"));
    }
    let needed = plan.peak(Place::Device);
    if needed <= limit {
        return None;
    }
    let (options, least) = Plan::advice(config, outline, setting, limit);
    let (needed, free, with) = (gib(needed), gib(limit), options.join(", "));
    Some(match (options.is_empty(), least <= limit) {
        (true, _) => format!("this needs {needed} GiB of memory, and {free} GiB are free"),
        (false, true) => format!(
            "this needs {needed} GiB of memory, and {free} GiB are free: with {with} it needs {} GiB and fits",
            gib(least)
        ),
        (false, false) => format!(
            "this needs {needed} GiB of memory, and {free} GiB are free: even with {with} it needs {} GiB",
            gib(least)
        ),
    })
}

fn lines<'a>(items: impl Iterator<Item = &'a Item>) {
    for item in items {
        say!("{:>9} GiB {}", gib(item.bytes), item.what);
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 30))
}

/// Operations that a device does in a second on a large product of matrices in single precision.
fn speed(device: &Device) -> f64 {
    const SIDE: usize = 1024;
    let matrix = || Tensor::<2>::random([SIDE, SIDE], Distribution::Default, device);
    let (a, b) = (matrix(), matrix());
    let run = || a.clone().matmul(b.clone()).sum().into_scalar::<f32>();
    run();
    let times = (0..5).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    2.0 * (SIDE as f64).powi(3) / times.fold(f64::INFINITY, f64::min)
}

/// A time as a person says it.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} minutes", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} hours", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}
