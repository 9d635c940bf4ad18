//! How published few-step models are called. The sources are the models' pages. The tests compare each row with the
//! trajectory of diffusers' scheduler (`tests/golden/walks`).

use std::ops::RangeInclusive;
use std::path::Path;

use dmd_core::Prediction;
use dmd_scheduler::{Sampler, SchedulerConfig, Steps};
use serde_json::{Value, json};

use crate::families::Kind;
use crate::{Error, Noising, Recipe, TeacherOf};

/// A recipe: one way in which published few-step models are called.
struct Published {
    name: &'static str,
    /// Which files the recipe is for.
    about: &'static str,
    /// The kinds of model for which such files exist.
    kinds: &'static [Kind],
    way: Way,
}

enum Way {
    /// The network is called at these timesteps. The samples of each call are renoised for the next.
    Renoised(&'static [usize]),
    /// The network is called by a sampler without guidance.
    Sampled { sampler: Sampler, options: &'static [(&'static str, Chosen)], steps: Counts },
    /// The network is called by a sampler at these timesteps.
    At { sampler: Sampler, timesteps: &'static [usize] },
}

/// The numbers of steps that a recipe is for.
struct Counts {
    usual: usize,
    possible: RangeInclusive<usize>,
}

/// The value of a scheduler's option.
#[derive(Clone, Copy)]
enum Chosen {
    Word(&'static str),
    Number(f64),
    Off,
}

impl From<Chosen> for Value {
    fn from(option: Chosen) -> Self {
        match option {
            Chosen::Word(word) => json!(word),
            Chosen::Number(number) => json!(number),
            Chosen::Off => json!(false),
        }
    }
}

use Kind::{StableDiffusion as Sd, StableDiffusionXl as Xl};

const TRAILING: (&str, Chosen) = ("timestep_spacing", Chosen::Word("trailing"));
const DDIM: &[(&str, Chosen)] = &[TRAILING, ("clip_sample", Chosen::Off)];

const fn sampled(sampler: Sampler, options: &'static [(&'static str, Chosen)], steps: usize) -> Way {
    within(sampler, options, steps, steps..=steps)
}

const fn within(
    sampler: Sampler,
    options: &'static [(&'static str, Chosen)],
    usual: usize,
    possible: RangeInclusive<usize>,
) -> Way {
    Way::Sampled { sampler, options, steps: Counts { usual, possible } }
}

/// All published recipes.
const ALL: &[Published] = &[
    Published {
        name: "dmd2-1step",
        about: "DMD2's one-step UNets",
        kinds: &[Xl],
        way: Way::Renoised(&[399]),
    },
    Published {
        name: "dmd2-1step",
        about: "DMD2's one-step UNets",
        kinds: &[Sd],
        way: Way::Renoised(&[999]),
    },
    Published {
        name: "dmd2-4step",
        about: "DMD2's four-step UNet and LoRA",
        kinds: &[Sd, Xl],
        way: Way::Renoised(&[999, 749, 499, 249]),
    },
    Published {
        name: "lcm",
        about: "latent consistency models and LCM-LoRA",
        kinds: &[Sd, Xl],
        way: within(Sampler::Lcm, &[], 4, 1..=8),
    },
    Published {
        name: "lightning-1step",
        about: "SDXL-Lightning's one-step UNet, which predicts the picture",
        kinds: &[Xl],
        way: sampled(Sampler::Euler, &[TRAILING], 1),
    },
    Published {
        name: "lightning-2step",
        about: "SDXL-Lightning in 2 steps",
        kinds: &[Xl],
        way: sampled(Sampler::Euler, &[TRAILING], 2),
    },
    Published {
        name: "lightning-4step",
        about: "SDXL-Lightning in 4 steps",
        kinds: &[Xl],
        way: sampled(Sampler::Euler, &[TRAILING], 4),
    },
    Published {
        name: "lightning-8step",
        about: "SDXL-Lightning in 8 steps",
        kinds: &[Xl],
        way: sampled(Sampler::Euler, &[TRAILING], 8),
    },
    Published {
        name: "hyper-1step",
        about: "Hyper-SD's one-step LoRA",
        kinds: &[Sd, Xl],
        way: within(Sampler::Tcd, &[("eta", Chosen::Number(1.0))], 1, 1..=8),
    },
    Published {
        name: "hyper-1step-unet",
        about: "Hyper-SDXL's one-step UNet",
        kinds: &[Xl],
        way: Way::At { sampler: Sampler::Lcm, timesteps: &[800] },
    },
    Published {
        name: "hyper-2step",
        about: "Hyper-SD's LoRA of 2 steps",
        kinds: &[Sd, Xl],
        way: sampled(Sampler::Ddim, DDIM, 2),
    },
    Published {
        name: "hyper-4step",
        about: "Hyper-SD's LoRA of 4 steps",
        kinds: &[Sd, Xl],
        way: sampled(Sampler::Ddim, DDIM, 4),
    },
    Published {
        name: "hyper-8step",
        about: "Hyper-SD's LoRA of 8 steps",
        kinds: &[Sd, Xl],
        way: sampled(Sampler::Ddim, DDIM, 8),
    },
    Published {
        name: "turbo",
        about: "SDXL-turbo",
        kinds: &[Xl],
        way: within(Sampler::EulerAncestral, &[TRAILING], 1, 1..=4),
    },
    Published {
        name: "turbo",
        about: "SD-turbo",
        kinds: &[Sd],
        way: within(Sampler::Euler, &[TRAILING], 1, 1..=4),
    },
    Published {
        name: "tcd",
        about: "TCD-LoRA",
        kinds: &[Sd, Xl],
        way: within(Sampler::Tcd, &[("eta", Chosen::Number(0.3))], 4, 1..=50),
    },
];

/// The names of published recipes.
pub(crate) fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = ALL.iter().map(|published| published.name).collect();
    names.dedup();
    names
}

/// The numbers of steps that the recipe `name` can be called with, or `None` if it has only one.
pub(crate) fn possible_steps(name: &str) -> Option<RangeInclusive<usize>> {
    ALL.iter().filter(|published| published.name == name).find_map(|published| match &published.way {
        Way::Sampled { steps, .. } if steps.possible.start() < steps.possible.end() => {
            Some(steps.possible.clone())
        }
        _ => None,
    })
}

/// The recipe `name` for a kind of model and its noise schedule, with `steps` steps, or with the usual number for
/// `None`.
///
/// # Errors
///
/// [`Error::Setting`] for an unknown name, a recipe of another kind of model, or a number of steps that the recipe is
/// not for.
pub(crate) fn recipe(
    name: &str,
    steps: Option<usize>,
    kind: Kind,
    noising: &Noising,
) -> Result<Recipe, Error> {
    let refuse = |hint: String| Error::Setting { setting: format!("the recipe {name:?}"), hint };
    let named: Vec<&Published> = ALL.iter().filter(|published| published.name == name).collect();
    let Some(first) = named.first() else {
        return Err(refuse(format!("known are {}", names().join(", "))));
    };
    let Some(published) = named.iter().find(|published| published.kinds.contains(&kind)) else {
        let others: Vec<_> = first.kinds.iter().map(|kind| kind.description()).collect();
        return Err(refuse(format!(
            "it is for {}, which exist for: {}; this model is: {}",
            first.about,
            others.join("; "),
            kind.description()
        )));
    };
    let Noising::Preserving { scheduler, .. } = noising else {
        return Err(refuse("it is for Stable Diffusion".to_owned()));
    };
    let made = |timesteps: Vec<usize>, walk| Recipe {
        noise_scale: 1.0,
        guidance_scale: None,
        name: Some(name.to_owned()),
        prediction: (name == "lightning-1step").then_some(Prediction::Sample),
        timesteps,
        walk,
        told_guidance: None,
        assumed: false,
        teacher: TeacherOf::UNet,
    };
    let asked = steps;
    let walk = |scheduler: SchedulerConfig, steps: Steps| {
        let walk = scheduler.walk(steps)?;
        let timesteps = walk.timesteps().iter().map(|t| t.round() as usize).collect();
        Ok(made(timesteps, Some(walk)))
    };
    match &published.way {
        Way::Renoised(timesteps) | Way::At { timesteps, .. }
            if asked.is_some_and(|steps| steps != timesteps.len()) =>
        {
            Err(refuse(format!("it is for {} steps, and no other number", timesteps.len())))
        }
        Way::Renoised(timesteps) => Ok(made(timesteps.to_vec(), None)),
        Way::Sampled { sampler, options, steps: Counts { usual, possible } } => {
            let steps = asked.unwrap_or(*usual);
            if !possible.contains(&steps) {
                return Err(refuse(match possible.start() == possible.end() {
                    true => format!("it is for {usual} steps, and not for {steps}"),
                    false => {
                        format!(
                            "it is for {} to {} steps, and not for {steps}",
                            possible.start(),
                            possible.end()
                        )
                    }
                }));
            }
            let mut scheduler = scheduler.clone();
            // The recipe's options are set before the sampler, which might refuse the options of the file.
            for (key, value) in *options {
                scheduler = scheduler.with_option(key, *value)?;
            }
            walk(scheduler.with_sampler(*sampler)?, steps.into())
        }
        Way::At { sampler, timesteps } => walk(scheduler.with_sampler(*sampler)?, timesteps.to_vec().into()),
    }
}

/// The recipe that follows from the name of a file or folder, or `None` if the name leaves a doubt. The known names are
/// those under which the models are published.
pub(crate) fn guess(path: &Path) -> Option<&'static str> {
    let parts = path.components().rev().take(4).filter_map(|part| part.as_os_str().to_str());
    let mut parts = parts.map(str::to_lowercase);
    let name = parts.next()?;
    let stem = [".safetensors", ".bin", ".ckpt", ".pth", ".pt"].iter().find_map(|end| name.strip_suffix(end));
    let stem = stem.unwrap_or(&name);
    let words: Vec<&str> = stem.split(['_', '-', '.']).collect();
    let has = |word: &str| words.contains(&word);
    let steps = |count: usize| {
        let (one, many) = (format!("{count}step"), format!("{count}steps"));
        words.iter().any(|word| **word == one || **word == many)
    };
    let of = |family: &str, counts: &[usize]| {
        let mut found = counts.iter().filter(|count| steps(**count));
        // A name with two numbers of steps is ambiguous.
        let (Some(count), None) = (found.next(), found.next()) else { return None };
        names().into_iter().find(|name| *name == format!("{family}-{count}step"))
    };
    if has("dmd2") {
        return of("dmd2", &[1, 4]);
    }
    if has("lightning") && has("sdxl") {
        // The one-step files are published as `_1step_unet_x0`. A name without `x0` is that of another file.
        return of("lightning", &[2, 4, 8]).or(has("x0").then(|| of("lightning", &[1])).flatten());
    }
    if has("hyper") && (has("sdxl") || has("sd15")) && !has("cfglora") && (has("lora") || has("unet")) {
        return match has("unet") {
            true => steps(1).then_some("hyper-1step-unet"),
            false => of("hyper", &[1, 2, 4, 8]),
        };
    }
    let turbo = |name: &str| {
        let name = name.rsplit("--").next().unwrap_or(name);
        ["sdxl-turbo", "sd-turbo", "sd_xl_turbo_1.0", "sd_xl_turbo_1.0_fp16", "sd_turbo"].contains(&name)
    };
    if turbo(stem) || turbo(&name) {
        return Some("turbo");
    }
    // A model or LoRA may also be named by its repository's folder, in the hub's cache above `snapshots/COMMIT`.
    let folders: Vec<String> = std::iter::once(name.clone()).chain(parts).collect();
    let repository = |name: &str| folders.iter().any(|folder| folder.rsplit("--").next() == Some(name));
    if folders.iter().any(|folder| folder.starts_with("models--") && turbo(folder)) {
        return Some("turbo");
    }
    if ["lcm-lora-sdv1-5", "lcm-lora-sdxl"].into_iter().any(repository) {
        return Some("lcm");
    }
    ["tcd-sd15-lora", "tcd-sdxl-lora", "tcd-sd21-base-lora"].into_iter().any(repository).then_some("tcd")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn names_of_published_files() {
        for (path, expected) in [
            ("dmd2_sdxl_4step_unet_fp16.safetensors", Some("dmd2-4step")),
            ("dmd2_sdxl_1step_unet_fp16.bin", Some("dmd2-1step")),
            ("a/dmd2_sdxl_4step_lora_fp16.safetensors", Some("dmd2-4step")),
            ("sdxl_lightning_4step_unet.safetensors", Some("lightning-4step")),
            ("sdxl_lightning_1step_unet_x0.safetensors", Some("lightning-1step")),
            ("sdxl_lightning_8step_lora.safetensors", Some("lightning-8step")),
            ("Hyper-SDXL-8steps-lora.safetensors", Some("hyper-8step")),
            ("Hyper-SD15-1step-lora.safetensors", Some("hyper-1step")),
            ("Hyper-SDXL-1step-Unet.safetensors", Some("hyper-1step-unet")),
            ("sd_xl_turbo_1.0_fp16.safetensors", Some("turbo")),
            ("sd_turbo.ckpt", Some("turbo")),
            ("models--stabilityai--sdxl-turbo/snapshots/abc", Some("turbo")),
            ("models/sdxl-turbo", Some("turbo")),
            (
                "models--latent-consistency--lcm-lora-sdxl/snapshots/abc/pytorch_lora_weights.safetensors",
                Some("lcm"),
            ),
            ("h1t--TCD-SDXL-LoRA/pytorch_lora_weights.safetensors", Some("tcd")),
            // These names leave a doubt.
            ("dmd2_finetune.safetensors", None),
            ("sdxl_lightning_1step.safetensors", None),
            ("Hyper-SDXL-8steps-CFGLora.safetensors", None),
            ("Hyper-FLUX.1-dev-8steps-lora.safetensors", None),
            ("dmd2_sdxl_1step_or_4step.safetensors", None),
            ("turboVisionXL.safetensors", None),
            ("14step.safetensors", None),
            ("pytorch_lora_weights.safetensors", None),
            ("unet_one_step", None),
        ] {
            assert_eq!(guess(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn every_name_is_a_recipe_of_its_kinds() {
        let noising = Noising::stable_diffusion(SchedulerConfig::stable_diffusion()).unwrap();
        for published in ALL {
            for kind in published.kinds {
                let made = recipe(published.name, None, *kind, &noising).unwrap();
                assert!(made.timesteps[0] <= 999 && !made.timesteps.is_empty(), "{}", published.name);
            }
        }
        let at = |name: &str, kind| recipe(name, None, kind, &noising).unwrap().timesteps;
        assert_eq!(at("dmd2-1step", Xl), [399]);
        assert_eq!(at("dmd2-1step", Sd), [999]);
        assert_eq!(at("lightning-4step", Xl), [999, 749, 499, 249]);
        assert_eq!(at("lightning-8step", Xl), [999, 874, 749, 624, 499, 374, 249, 124]);
        assert_eq!(at("lcm", Sd), [999, 759, 499, 259]);
        assert_eq!(at("hyper-1step-unet", Xl), [800]);
        let in_steps = |name: &str, steps, kind| recipe(name, Some(steps), kind, &noising);
        assert_eq!(in_steps("lcm", 2, Sd).unwrap().timesteps, [999, 499]);
        assert_eq!(in_steps("turbo", 4, Xl).unwrap().timesteps, [999, 749, 499, 249]);
        for (name, steps, kind, said) in [
            ("turbo", 5, Xl, "for 1 to 4 steps"),
            ("lightning-4step", 8, Xl, "for 4 steps, and not for 8"),
            ("dmd2-4step", 1, Xl, "for 4 steps, and no other number"),
        ] {
            let message = in_steps(name, steps, kind).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
        let message = recipe("lightning-4step", None, Sd, &noising).unwrap_err().to_string();
        assert!(message.contains("XL") && message.contains("Lightning"), "{message}");
        let message = recipe("lightning", None, Xl, &noising).unwrap_err().to_string();
        assert!(message.contains("lightning-4step") && message.contains("turbo"), "{message}");
    }
}
