use burn::tensor::{Device, FloatDType};
use clap::Args;
use dmd_kernels::device::{Backend, backends, properties};
use serde_json::json;

use super::JsonArgs;
use crate::console::say;

/// List the backends of this build and the devices that they find, with memory and float types
#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    #[command(flatten)]
    print: JsonArgs,
}

pub(crate) fn devices(args: &DevicesArgs) -> anyhow::Result<()> {
    if !args.print.json {
        say!("{:10} {:>11}  {:17} hardware", "device", "memory", "float types");
    }
    for backend in backends() {
        if !backend.compiled || backend.devices.is_empty() {
            absent(&backend, args.print.json);
        }
        for (name, device) in &backend.devices {
            present(name, device, args.print.json);
        }
    }
    Ok(())
}

fn absent(backend: &Backend, as_json: bool) {
    let why = match backend.compiled {
        true => backend.needs().to_owned(),
        false => format!("not compiled in; build with `--features {}`", backend.name),
    };
    match as_json {
        true => say!("{}", json!({ "device": backend.name, "missing": why })),
        false => say!("{:10} {:>11}  {:17} {why}", backend.name, "-", "-"),
    }
}

fn present(name: &str, device: &Device, as_json: bool) {
    let found = properties(device);
    let on_cpu = found.hardware.is_none();
    let memory = found.memory.or_else(|| if on_cpu { dmd_kernels::memory::total() } else { None });
    let hardware = found.hardware.unwrap_or_else(processor);
    let floats: Vec<&str> = found.float_types.iter().map(|float| short(*float)).collect();
    if as_json {
        let line = json!({ "device": name, "hardware": hardware, "memory": memory, "float_types": floats });
        say!("{line}");
        return;
    }
    let memory = memory.map_or("-".to_owned(), |bytes| format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0));
    say!("{name:10} {memory:>11}  {:17} {hardware}", floats.join(" "));
}

fn short(float: FloatDType) -> &'static str {
    match float {
        FloatDType::F64 => "f64",
        FloatDType::F16 => "f16",
        FloatDType::BF16 => "bf16",
        _ => "f32",
    }
}

fn processor() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!("this processor, {threads} threads")
}
