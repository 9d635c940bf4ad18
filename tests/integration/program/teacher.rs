//! `dmd teacher` on latents: autoencoder, grounding and diffusion.

use std::fs;
use std::path::Path;

use dmd::model::{AnyModel, OpenOptions};

use super::{dmd, losses, refused};
use crate::support::device;

const TEACHER: &str = r#"
    seed = 3
    output = "run"
    data = { kind = "folder", path = "pictures", size = 16 }
    text = { width = 8, layers = 1, heads = 2 }
    unet = { block_out_channels = [8, 8], layers_per_block = 1, heads = 2, norm_num_groups = 4 }
    [autoencoder]
    block_out_channels = [4, 4]
    layers_per_block = 1
    latent_channels = 2
    norm_num_groups = 2
    kl_weight = 1e-4
    latent_noise = 0.1
    preview_weight = 1.0
    batch = 4
    learning_rate = 1e-3
    warmup_steps = 1
    ema_decay = 0.5
    pace = { steps = 3, checkpoint_every = 100 }
    [grounding]
    batch = 4
    learning_rate = 1e-3
    warmup_steps = 1
    pace = { steps = 4, checkpoint_every = 100 }
    [diffusion]
    pool = 8
    batch = 4
    levels_per_caption = 2
    loss = "velocity"
    noisy_half_share = 0.5
    caption_dropout = 0.25
    learning_rate = 1e-3
    warmup_steps = 1
    ema_decay = 0.5
    pace = { steps = 5, checkpoint_every = 100 }
"#;

/// Six captioned pictures of 16 pixels a side.
fn pictures(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let mut lines = String::new();
    for i in 0..6_u8 {
        let (name, word) = (format!("{i}.png"), ["bright", "dark"][usize::from(i % 2)]);
        let level = if i % 2 == 0 { 220 } else { 30 };
        image::RgbImage::from_pixel(16, 16, image::Rgb([level, level, 40 * i]))
            .save(folder.join(&name))
            .unwrap();
        lines.push_str(&format!("{{\"file_name\": \"{name}\", \"text\": \"a {word} picture\"}}\n"));
    }
    fs::write(folder.join("metadata.jsonl"), lines).unwrap();
}

/// All three stages run in turn, the model's folder is whole and draws, a second call finds everything done, and what
/// a stage was made from cannot change behind its back.
#[test]
fn teacher_on_latents() {
    let here = tempfile::tempdir().unwrap();
    pictures(&here.path().join("pictures"));
    fs::write(here.path().join("teacher.toml"), TEACHER).unwrap();
    let run = |arguments: &[&str]| {
        let output = dmd(here.path(), arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["teacher", "teacher.toml"]);
    let folder = here.path().join("run");
    let logged = losses(&folder);
    for (stage, steps) in [("autoencoder", 3), ("grounding", 4), ("diffusion", 5)] {
        let lines = logged.iter().filter(|line| line["stage"] == stage && line["gradient_norm"].is_number());
        assert_eq!(lines.count(), steps, "steps of {stage}");
    }
    for grid in ["autoencoder-000003.png", "diffusion-000005.png"] {
        assert!(folder.join("grids").join(grid).is_file(), "{grid}");
    }

    let model = folder.join("model");
    let AnyModel::StableDiffusion(opened) = AnyModel::open(&OpenOptions::new(&model, &device())).unwrap()
    else {
        panic!("a teacher on latents is a model of text");
    };
    // Two levels of the autoencoder: 16 pixels are 8 latents.
    assert_eq!(opened.shape(), [2, 8, 8]);
    assert_eq!(opened.picture_size(), (16, 16));
    opened.teacher().unwrap();
    run(&["generate", "a dark picture", "--model", "run/model", "--steps", "2", "--out", "dark.png"]);
    let drawn = image::open(here.path().join("dark.png")).unwrap();
    assert_eq!((drawn.width(), drawn.height()), (16, 16));

    // Everything is done: nothing is trained or written anew.
    let files = || {
        ["unet", "vae"].map(|part| {
            let path = model.join(part).join("diffusion_pytorch_model.safetensors");
            (fs::read(path).unwrap(), fs::read_to_string(folder.join("metrics.jsonl")).unwrap())
        })
    };
    let before = files();
    run(&["teacher", "teacher.toml"]);
    assert!(files() == before, "a second call changed the model");

    // Latents of another autoencoder are not what text encoder and UNet were trained on.
    let other = TEACHER.replace("kl_weight = 1e-4", "kl_weight = 1e-3");
    fs::write(here.path().join("teacher.toml"), other).unwrap();
    let message = refused(here.path(), &["teacher", "teacher.toml"]);
    assert!(message.contains("autoencoder.kl_weight"), "{message}");
    assert!(files() == before, "a refused call changed the model");
}

/// A teacher that lost a stage's checkpoint or a part of its model, as by a kill between two stages, makes it again:
/// bitwise the teacher that was never stopped.
#[test]
fn a_teacher_makes_again_what_is_missing() {
    let here = tempfile::tempdir().unwrap();
    pictures(&here.path().join("pictures"));
    let run = |text: &str| {
        fs::write(here.path().join("teacher.toml"), text).unwrap();
        let output = dmd(here.path(), &["teacher", "teacher.toml"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&TEACHER.replace("output = \"run\"", "output = \"whole\""));
    run(TEACHER);
    let folder = here.path().join("run");
    fs::remove_dir_all(folder.join("checkpoints/diffusion")).unwrap();
    fs::remove_dir_all(folder.join("model/unet")).unwrap();
    run(TEACHER);
    fs::remove_dir_all(folder.join("checkpoints/diffusion")).unwrap();
    fs::remove_dir_all(folder.join("checkpoints/grounding")).unwrap();
    fs::remove_dir_all(folder.join("model/vae")).unwrap();
    run(TEACHER);
    for part in ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"] {
        let read =
            |run: &str| fs::read(here.path().join(run).join(format!("model/{part}.safetensors"))).unwrap();
        assert!(read("whole") == read("run"), "{part} differs");
    }
    let whole = losses(&here.path().join("whole"));
    assert_eq!(whole, losses(&folder));
}

/// A teacher's learning rate, the constants of its optimiser and its noise levels are options, as a distillation's are.
#[test]
fn options_of_a_teachers_training() {
    let here = tempfile::tempdir().unwrap();
    pictures(&here.path().join("pictures"));
    let run = |name: &str, changes: &[(&str, &str)]| {
        let mut text = TEACHER.replace("output = \"run\"", &format!("output = \"{name}\""));
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        fs::write(here.path().join("teacher.toml"), text).unwrap();
        dmd(here.path(), &["teacher", "teacher.toml"])
    };
    let trained = |name: &str, changes: &[(&str, &str)]| {
        let output = run(name, changes);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        losses(&here.path().join(name))
    };
    let of = |lines: &[serde_json::Value], stage: &str, key: &str| -> Vec<f64> {
        let lines = lines.iter().filter(|line| line["stage"] == stage);
        lines.filter_map(|line| line[key].as_f64()).collect()
    };
    let plain = trained("plain", &[]);
    // What the defaults are, said: the same run.
    let optimizer = "[optimizer]\nmax_norm = 1.0\nbeta2 = 0.999\n[autoencoder]\nschedule = \"cosine\"";
    assert_eq!(
        trained("said", &[("[autoencoder]", optimizer), ("pool = 8", "pool = 8\ntimes = \"uniform\"")]),
        plain
    );

    let constant =
        trained("constant", &[("learning_rate = 1e-3", "learning_rate = 1e-3\nschedule = \"constant\"")]);
    for (stage, steps) in [("autoencoder", 3), ("grounding", 4), ("diffusion", 5)] {
        // A step of warm-up from 0.
        let rates = of(&constant, stage, "learning_rate");
        assert_eq!(rates, [vec![0.0], vec![1e-3; steps - 1]].concat(), "{stage}");
        assert!(of(&plain, stage, "learning_rate")[steps - 1] < 9e-4, "{stage} has no cosine");
    }
    // Other constants change the weights after the first step that moves them, and so the losses from the third one on.
    let other = "[optimizer]\nbeta1 = 0.5\n[autoencoder]";
    let (before, after) = (of(&plain, "autoencoder", "loss"), of(&plain, "autoencoder", "gradient_norm"));
    let changed = trained("changed", &[("[autoencoder]", other)]);
    assert_eq!(of(&changed, "autoencoder", "gradient_norm")[..2], after[..2]);
    assert_eq!(of(&changed, "autoencoder", "loss").len(), before.len());
    assert_ne!(of(&changed, "autoencoder", "gradient_norm"), after);
    // Other noise levels change the last stage alone.
    let times = "pool = 8\ntimes = { log_normal = { mean = -1.2, std = 1.2 } }";
    let levels = trained("levels", &[("pool = 8", times)]);
    assert_eq!(of(&levels, "grounding", "gradient_norm"), of(&plain, "grounding", "gradient_norm"));
    assert_ne!(of(&levels, "diffusion", "gradient_norm"), of(&plain, "diffusion", "gradient_norm"));

    for (name, change, word) in [
        ("plain", ("[autoencoder]", other), "optimizer.beta1"),
        ("levels", ("pool = 8", "pool = 8\ntimes = { shifted = { shift = 3.0 } }"), "diffusion.times"),
        ("wrong", ("[autoencoder]", "[optimizer]\nbeta1 = 1.5\n[autoencoder]"), "optimizer.beta1"),
        ("wrong", ("pool = 8", "pool = 8\ntimes = { shifted = { shift = -1.0 } }"), "diffusion.times"),
        (
            "wrong",
            ("pool = 8", "pool = 8\ntimes = { log_normal = { mean = -9.0, std = 0.1 } }"),
            "diffusion.times",
        ),
        ("wrong", ("[autoencoder]", "[autoencoder]\nschedule = \"linear\""), "linear"),
    ] {
        let output = run(name, &[change]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(word), "{word}: {message}");
    }
}
