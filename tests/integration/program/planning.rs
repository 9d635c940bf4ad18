//! `dmd plan`: every configuration, and what does not fit.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::{refused, succeeds};
use crate::support::tiny_model;

/// GiB of the line that ends in these words.
fn gibibytes(plan: &str, what: &str) -> f64 {
    let line = plan.lines().find(|line| line.ends_with(what));
    let line = line.unwrap_or_else(|| panic!("{what:?} is not in\n{plan}"));
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap()
}

/// The configurations of `dmd distill` that come with the program, by what they are planned for.
fn configurations() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        if !text.lines().any(|line| line.starts_with("teacher = ")) {
            continue; // of `dmd teacher`
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let published = ["sd15", "sdxl"].into_iter().find(|published| name.starts_with(published));
        let mut arguments = vec!["plan".to_owned(), path.to_str().unwrap().to_owned()];
        if let Some(published) = published {
            arguments.extend(["--teacher".to_owned(), published.to_owned()]);
        }
        found.push((name, arguments));
    }
    found.sort();
    found
}

/// diffusers' configurations of the class-conditional networks that `configs/` distils.
fn edm_folder(at: &Path, size: usize, classes: Option<usize>) {
    let mut unet = serde_json::json!({
        "_class_name": "UNet2DModel", "sample_size": size, "in_channels": 3, "out_channels": 3,
        "layers_per_block": 3, "block_out_channels": [192, 384, 576, 768], "attention_head_dim": 64,
        "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "resnet_time_scale_shift": "scale_shift", "norm_num_groups": 32, "norm_eps": 1e-5,
        "downsample_type": "resnet", "upsample_type": "resnet", "act_fn": "silu",
        "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "time_embedding_type": "positional",
    });
    unet["num_class_embeds"] = serde_json::json!(classes);
    fs::create_dir_all(at.join("unet")).unwrap();
    fs::write(at.join("unet/config.json"), unet.to_string()).unwrap();
    fs::create_dir_all(at.join("scheduler")).unwrap();
    fs::write(at.join("scheduler/scheduler_config.json"), r#"{"_class_name":"EDMEulerScheduler"}"#).unwrap();
    fs::write(at.join("model_index.json"), r#"{"_class_name":"DiffusionPipeline"}"#).unwrap();
}

#[test]
fn every_configuration_has_a_plan() {
    let here = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = configurations();
    assert!(all.len() >= 10, "{all:?}");
    for (name, arguments) in all {
        let text = fs::read_to_string(root.join("configs").join(&name)).unwrap();
        let teacher = text.lines().find_map(|line| line.strip_prefix("teacher = \"")?.split('"').next());
        if name.starts_with("cifar10") {
            edm_folder(&here.path().join(teacher.unwrap()), 32, None);
        } else if name.starts_with("shapes") {
            let made = here.path().join(teacher.unwrap());
            if !made.exists() {
                fs::create_dir_all(made.parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(root.join("models/shapes"), made).unwrap();
            }
        } else if name.starts_with("imagenet64") {
            edm_folder(&here.path().join(teacher.unwrap()), 64, Some(1000));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let plan = succeeds(here.path(), &arguments);
        let most = gibibytes(&plan, "GiB at most");
        println!("{name}: {most} GiB at most");
        assert!(most > 0.1 && plan.contains("TFLOP a step"), "{name}: {plan}");
    }
}

/// Numbers that are known: the parameters of Stable Diffusion 1.5's UNet are 859 520 964.
#[test]
fn a_plan_counts_parameters() {
    let here = tempfile::tempdir().unwrap();
    let configuration = "teacher = \"none\"\noutput = \"run\"\ndata = { kind = \"prompts\", path = \"p.txt\" }\n[pace]\nsteps = 1\n";
    fs::write(here.path().join("run.toml"), configuration).unwrap();
    let plan = |more: &str| {
        fs::write(here.path().join("run.toml"), format!("{more}\n{configuration}")).unwrap();
        succeeds(here.path(), &["plan", "run.toml", "--teacher", "sd15"])
    };
    let network = 859_520_964.0 * 4.0 / f64::from(1 << 30);
    let near =
        |found: f64, expected: f64| assert!((found - expected).abs() < 0.006, "{found}, not {expected}");
    let whole = plan("");
    near(gibibytes(&whole, "the teacher"), network);
    near(gibibytes(&whole, "the generator"), network);
    near(gibibytes(&whole, "moments of the optimisers"), 4.0 * network);
    near(gibibytes(&plan("teacher_precision = \"f16\""), "the teacher"), network / 2.0);
    assert!(!whole.contains("moving average"));
    // The four projections of 16 attention layers, as PEFT counts them at rank 64: 12 754 944 values.
    fs::write(here.path().join("lora.toml"), format!("{configuration}[lora]\nrank = 64\n")).unwrap();
    let lora = succeeds(here.path(), &["plan", "lora.toml", "--teacher", "sd15"]);
    near(gibibytes(&lora, "the network, once for all"), network);
    let updates = 2.0 * 12_754_944.0 * 4.0 / f64::from(1 << 30);
    near(gibibytes(&lora, "updates of generator and fake score, the critic"), updates);
}

/// Networks that measure pictures are counted by their files. A run whose warm-up lasts to the end never updates its fake
/// score, and a step is the generator's update alone: forward, activations, weights.
#[test]
fn a_plan_counts_measures_and_the_warm_up() {
    let here = tempfile::tempdir().unwrap();
    let plan = |more: &str| {
        let configuration = format!(
            "teacher = \"none\"\noutput = \"run\"\ndata = {{ kind = \"prompts\", path = \"p.txt\" }}\n\
             generator = {{ batch = 2 }}\n{more}\n[pace]\nsteps = 10\n"
        );
        fs::write(here.path().join("run.toml"), configuration).unwrap();
        succeeds(here.path(), &["plan", "run.toml", "--teacher", "sd15"])
    };
    // 3 GiB in single precision, of a file in half precision whose values are not on the disk.
    let header = r#"{"a":{"dtype":"F16","shape":[805306368],"data_offsets":[0,1610612736]}}"#;
    let mut measure = fs::File::create(here.path().join("inception.safetensors")).unwrap();
    measure.write_all(&[&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    measure.set_len(8 + header.len() as u64 + 1_610_612_736).unwrap();
    let measured = plan("[evaluation]\nevery = 5\ninception = \"inception.safetensors\"");
    assert_eq!(gibibytes(&measured, "networks that measure"), 3.0);
    let regression = |warm_up: usize| {
        let section = "[regression]\nweight = 0.25\npairs = 10\nsampling_steps = 50";
        plan(&format!("{section}\nwarmup_steps = {warm_up}"))
    };
    let (some, all) = (regression(9), regression(10));
    assert!(some.contains("a turn of the fake score") && !all.contains("a turn of the fake score"), "{all}");
    let moments = |plan: &str| gibibytes(plan, "moments of the optimisers");
    // Printed with two decimals.
    assert!((moments(&some) - 2.0 * moments(&all)).abs() < 0.02, "{all}");
    let work = |plan: &str| -> f64 {
        let line = plan.lines().find(|line| line.contains("TFLOP a step")).unwrap();
        line.split(' ').next().unwrap().parse().unwrap()
    };
    // SiD's gradient needs the activations of fake score and guided teacher.
    let turn = |more: &str| gibibytes(&plan(more), "a turn of the generator");
    let (own, through) = (turn(""), turn("[matching]\nobjective = { score_identity = { alpha = 1.2 } }"));
    assert!(through > 3.0 * own && through < 5.0 * own, "{through} GiB, and {own} of matching");
    // 0.80 TFLOP a forward pass at 512² (`dmd bench` counts 803 GFLOP), three times, of two samples.
    assert!((work(&all) - 6.0 * 0.803).abs() < 0.1, "{all}");
}

/// A step is measured on the device; nothing is written.
#[test]
fn a_step_is_measured() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    fs::write(here.path().join("prompts.txt"), "a red circle\na blue square\n").unwrap();
    let configuration = format!(
        "teacher = {:?}\noutput = \"run\"\ndata = {{ kind = \"prompts\", path = \"prompts.txt\" }}\n[generator]\naccumulate = 4\n[pace]\nsteps = 100\n",
        model.path()
    );
    fs::write(here.path().join("run.toml"), configuration).unwrap();
    let plan = succeeds(here.path(), &["plan", "run.toml", "--measure"]);
    assert!(plan.contains("as measured") && plan.contains("for 100 steps"), "{plan}");
    assert!(!here.path().join("run").exists());
}

/// What does not fit is refused before anything is read or written, with the options that help.
#[test]
fn what_does_not_fit_is_refused() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let configuration = format!(
        "teacher = {:?}\noutput = \"run\"\ndata = {{ kind = \"shapes\" }}\n[generator]\nbatch = 40000000\n[pace]\nsteps = 1\n",
        model.path()
    );
    fs::write(here.path().join("run.toml"), configuration).unwrap();
    let error = refused(here.path(), &["distill", "run.toml"]);
    assert!(error.contains("GiB are free: with generator.recompute = true, "), "{error}");
    assert!(error.contains("and fits; --anyway"), "{error}");
    assert!(!here.path().join("run").exists(), "nothing is written");
}
