//! Describes a request as text, in the form that other programs write into their PNGs under `parameters`.

use crate::Pipeline;
use crate::request::{Method, NoiseSource, Request, TeacherSettings};

impl Pipeline {
    /// The settings of a request's picture as text, in the form that other programs write into their PNGs under
    /// `parameters`. LoRA files follow the prompt as `<lora:NAME:STRENGTH>`.
    pub fn describe(&self, request: &Request, picture: usize, size: (u32, u32), model: &str) -> String {
        let mut text = request.prompts.get(picture).cloned().unwrap_or_default();
        let named = |recipe: &Option<String>| recipe.as_deref() != Some("none");
        // A teacher is called without the LoRA files that turn the model into a generator.
        let left_out = matches!(request.method, Method::Teacher(_))
            && self.options.as_ref().is_some_and(|options| named(&options.recipe));
        for lora in self.loras().iter().filter(|lora| !left_out || !lora.makes_few_steps()) {
            let name = lora.path.file_stem().unwrap_or_default().to_string_lossy();
            let between = if text.is_empty() { "" } else { " " };
            text.push_str(&format!("{between}<lora:{name}:{}>", lora.strength));
        }
        match &request.method {
            Method::Distilled => {
                text.push_str(&format!("\nSteps: {}", self.generator_steps().unwrap_or(1)));
                if let Some(name) = self.generator_recipe().and_then(|recipe| recipe.name.as_ref()) {
                    text.push_str(&format!(", Recipe: {name}"));
                }
                if let Some(scale) = self.generator_recipe().and_then(|recipe| recipe.told_guidance) {
                    text.push_str(&format!(", CFG scale: {scale}"));
                }
            }
            Method::Teacher(settings) => self.describe_teacher(settings, &mut text),
        }
        if request.clip_skip > 0 {
            text.push_str(&format!(", Clip skip: {}", request.clip_skip));
        }
        let noise = match request.noise {
            NoiseSource::TorchCpu => "CPU",
            NoiseSource::TorchCuda => "GPU",
        };
        let seed = request.seeds.get(picture).copied().unwrap_or(picture as u64);
        text.push_str(&format!(
            ", Seed: {seed}, RNG: {noise}, Size: {}x{}, Model: {model}, Version: dmd {}",
            size.0,
            size.1,
            env!("CARGO_PKG_VERSION")
        ));
        text
    }

    fn describe_teacher(&self, settings: &TeacherSettings, text: &mut String) {
        if let Some(negative) = &settings.negative_prompt {
            text.push_str(&format!("\nNegative prompt: {negative}"));
        }
        let steps = match &settings.steps {
            dmd_scheduler::Steps::Count(count) => *count,
            dmd_scheduler::Steps::Timesteps(list) => list.len(),
        };
        text.push_str(&format!("\nSteps: {steps}"));
        if let Some(sampler) = settings.sampler {
            text.push_str(&format!(", Sampler: {}", sampler.name()));
        }
        let guidance = settings.guidance_scale.unwrap_or(self.default_guidance());
        text.push_str(&format!(", CFG scale: {guidance}"));
        if settings.guidance_rescale != 0.0 {
            text.push_str(&format!(", CFG rescale: {}", settings.guidance_rescale));
        }
        if let Some(start) = &settings.start {
            text.push_str(&format!(", Denoising strength: {}", start.strength));
        }
    }
}
