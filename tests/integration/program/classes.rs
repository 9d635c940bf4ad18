//! Class-conditional models on pixels, from a folder of pictures to one step.

#[path = "../../../crates/dmd-train/tests/training/bright_and_dark.rs"]
mod bright_and_dark;

use std::fs;

use self::bright_and_dark::bright_and_dark;
use super::{dmd, losses, refused};

/// A class-conditional model on pixels, from a folder of pictures to one step: teacher, Heun pairs, both losses'
/// turns at EDM's noise levels, and pictures of classes by name.
#[test]
fn classes_on_pixels() {
    let here = tempfile::tempdir().unwrap();
    bright_and_dark(&here.path().join("pictures"), 12, 10);
    let teacher = r#"
        kind = "pixels"
        seed = 1
        output = "teacher"
        data = { kind = "folder", path = "pictures", size = 8 }
        unet = { block_out_channels = [16, 16], layers_per_block = 1, attention_head_dim = 8, norm_num_groups = 4 }
        [training]
        batch = 8
        learning_rate = 2e-3
        warmup_steps = 5
        ema_decay = 0.9
        class_dropout = 0.1
        pace = { steps = 60, checkpoint_every = 30 }
    "#;
    fs::write(here.path().join("teacher.toml"), teacher).unwrap();
    let run = |arguments: &[&str]| {
        let output = dmd(here.path(), arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["teacher", "teacher.toml"]);
    let distil = r#"
        seed = 2
        teacher = "teacher/model"
        output = "student"
        guidance_scale = 1.5
        data = { kind = "folder", path = "pictures", size = 8 }
        generator = { batch = 4, learning_rate = 1e-3, warmup_steps = 2, ema_decay = 0.5 }
        fake = { learning_rate = 1e-3, steps_per_generator_step = 2 }
        matching = { first_timestep = 20, last_timestep = 980 }
        adversarial = { generator_weight = 3e-3, critic_weight = 1e-2, reals = 12 }
        regression = { weight = 1.0, pairs = 8, sampling_steps = 4, warmup_steps = 2 }
        pace = { steps = 6 }
    "#;
    fs::write(here.path().join("distil.toml"), distil).unwrap();
    run(&["distill", "distil.toml"]);
    let logged = losses(&here.path().join("student"));
    assert_eq!(logged.len(), 6);
    assert!(logged[5]["matching"].as_f64().unwrap() > 0.0 && logged[5]["adversarial"].is_number());
    fs::rename(here.path().join("student/unet_one_step"), here.path().join("teacher/model/unet_one_step"))
        .unwrap();
    let settings = fs::read_to_string(here.path().join("teacher/model/unet_one_step/one_step.json")).unwrap();
    assert!(settings.contains("80") && settings.contains("999"), "{settings}");
    run(&["generate", "bright", "dark", "--model", "teacher/model", "--out", "one.png"]);
    run(&["generate", "dark", "--model", "teacher/model", "--steps", "6", "--out", "six.png"]);
    let mean = |name: &str| {
        let picture = image::open(here.path().join(name)).unwrap().to_rgb8();
        picture.pixels().map(|p| f64::from(p.0[0])).sum::<f64>() / 64.0
    };
    // Sixty steps are enough to tell bright from dark.
    assert!(mean("one-1.png") > mean("one-2.png") + 20.0, "{} {}", mean("one-1.png"), mean("one-2.png"));
    // The same rules as for text: one step is drawn by the generator, which takes no guidance.
    let guided = ["generate", "dark", "--model", "teacher/model", "--steps", "1", "--guidance", "2"];
    assert!(refused(here.path(), &guided).contains("--guidance"));
    let shown = dmd(here.path(), &["inspect", "teacher/model"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(shown.matches("UNet2DModel").count(), 2, "{shown}");
    assert!(shown.contains("2 classes") && !shown.contains("missing"), "{shown}");
    let message = refused(here.path(), &["generate", "grey", "--model", "teacher/model"]);
    assert!(message.contains("bright, dark"), "{message}");
    assert!(
        refused(here.path(), &["generate", "dark", "--model", "teacher/model", "--tile", "32"])
            .contains("--tile")
    );
}
