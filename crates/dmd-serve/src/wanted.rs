//! What a client asks for, checked against the server's limits and the model.

use std::collections::BTreeMap;

use dmd_infer::{Pipeline, Request, Sampler, TeacherSettings};
use serde::Deserialize;

use crate::Settings;
use crate::answer::Failure;
use crate::loras::Loras;

/// `POST /generate`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Body {
    prompt: Option<String>,
    prompts: Vec<String>,
    /// Of the first picture; the next ones count up.
    seed: Option<u64>,
    seeds: Vec<u64>,
    /// Pictures of each prompt.
    count: Option<usize>,
    width: Option<usize>,
    height: Option<usize>,
    /// Any number but the generator's own is the teacher's.
    steps: Option<usize>,
    guidance: Option<f64>,
    guidance_rescale: Option<f64>,
    negative: Option<String>,
    sampler: Option<String>,
    /// Strengths of LoRA files that the server was started with, by their names.
    loras: BTreeMap<String, f64>,
    /// Previews of a teacher's steps, with server-sent events.
    pub(crate) previews: bool,
}

/// Pictures of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) prompts: Vec<String>,
    pub(crate) seeds: Vec<u64>,
    pub(crate) kind: Kind,
}

/// What requests must share to be drawn together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kind {
    size: Option<(usize, usize)>,
    teacher: Option<Teacher>,
    /// Of every LoRA file.
    strengths: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq)]
struct Teacher {
    steps: usize,
    guidance: Option<f64>,
    rescale: f64,
    negative: Option<String>,
    sampler: Option<Sampler>,
}

impl Body {
    /// A prompt's pictures, from a random seed on, at a size.
    pub(crate) fn of_prompt(
        prompt: String,
        count: usize,
        seed: u64,
        size: Option<(usize, usize)>,
        steps: Option<usize>,
    ) -> Self {
        let (width, height) = size.unzip();
        Self {
            prompt: Some(prompt),
            count: Some(count),
            seed: Some(seed),
            width,
            height,
            steps,
            ..Self::default()
        }
    }

    /// What is wanted, if the server allows it and the model can draw it.
    pub(crate) fn wanted(
        self,
        settings: &Settings,
        pipeline: &Pipeline,
        loras: &Loras,
    ) -> Result<Wanted, Failure> {
        let refused = |sentence: String| Err(Failure::Request(sentence));
        let count = self.count.unwrap_or(1);
        let prompts: Vec<String> = self.prompt.into_iter().chain(self.prompts).collect();
        if prompts.is_empty() {
            return refused("there is no prompt; say what to draw".to_owned());
        }
        let total = prompts.len().saturating_mul(count);
        if !(1..=settings.pictures).contains(&total) {
            return refused(format!("{total} pictures; a request may have 1 to {}", settings.pictures));
        }
        if let Some(long) = prompts.iter().chain(&self.negative).find(|prompt| prompt.len() > settings.prompt)
        {
            return refused(format!(
                "a prompt of {} bytes; at most {} are read",
                long.len(),
                settings.prompt
            ));
        }
        let seeds = match (self.seed, self.seeds.len()) {
            (Some(_), 1..) => {
                return refused("seed and seeds do not go together; leave one of them out".to_owned());
            }
            (seed, 0) => (0..total as u64).map(|i| seed.unwrap_or(0).wrapping_add(i)).collect(),
            (None, given) if given == total => self.seeds,
            (None, given) => return refused(format!("{given} seeds for {total} pictures")),
        };
        let size = match (self.height, self.width) {
            (None, None) => None,
            (height, width) => {
                let own = pipeline.default_size();
                Some((height.unwrap_or(own.0), width.unwrap_or(own.1)))
            }
        };
        let most = settings.side.unwrap_or(usize::MAX);
        if let Some((height, width)) = size.filter(|(height, width)| *height.max(width) > most) {
            return refused(format!("a picture of {width}×{height}; a side may have {most} pixels"));
        }
        // The model's own size is the same whether it is named or not.
        let size = size.filter(|size| *size != pipeline.default_size());
        let own = pipeline.generator_steps();
        let sampler = self.sampler.as_deref().map(str::parse::<Sampler>).transpose();
        let sampler = sampler.map_err(|error| Failure::Request(error.to_string()))?;
        let settings_of_teacher = [
            ("guidance", self.guidance.is_some_and(|scale| scale != 1.0)),
            ("guidance_rescale", self.guidance_rescale.is_some_and(|share| share != 0.0)),
            ("negative", self.negative.as_ref().is_some_and(|negative| !negative.is_empty())),
            ("sampler", sampler.is_some()),
        ];
        let teacher = match (own, self.steps) {
            (Some(own), steps) if steps.is_none_or(|steps| steps == own) => {
                if let Some((name, _)) = settings_of_teacher.iter().find(|(_, given)| *given) {
                    return refused(format!(
                        "{name} does not go with the distilled generator; leave it out, or ask for the teacher's steps"
                    ));
                }
                None
            }
            (_, steps) => {
                let steps = steps.unwrap_or(50);
                if steps > settings.steps {
                    return refused(format!("{steps} steps; at most {} are drawn", settings.steps));
                }
                Some(Teacher {
                    steps,
                    guidance: self.guidance,
                    rescale: self.guidance_rescale.unwrap_or(0.0),
                    negative: self.negative,
                    sampler,
                })
            }
        };
        let prompts = prompts.into_iter().flat_map(|prompt| vec![prompt; count]).collect();
        let wanted =
            Wanted { prompts, seeds, kind: Kind { size, teacher, strengths: loras.strengths(&self.loras)? } };
        pipeline.check(&wanted.kind.request([&wanted].into_iter())).map_err(Failure::of)?;
        Ok(wanted)
    }
}

impl Kind {
    /// The strengths of the LoRA files.
    pub(crate) fn strengths(&self) -> &[f64] {
        &self.strengths
    }

    /// Height and width of its pictures.
    pub(crate) fn size(&self, pipeline: &Pipeline) -> (usize, usize) {
        self.size.unwrap_or(pipeline.default_size())
    }

    /// One request for the pictures of several clients.
    pub(crate) fn request<'a>(&self, all: impl Iterator<Item = &'a Wanted>) -> Request {
        let (mut prompts, mut seeds) = (Vec::new(), Vec::new());
        for wanted in all {
            prompts.extend(wanted.prompts.iter().cloned());
            seeds.extend(&wanted.seeds);
        }
        let mut request = Request::new(prompts).with_seeds(seeds);
        request.size = self.size;
        let Some(teacher) = &self.teacher else { return request };
        let mut settings = TeacherSettings::new(teacher.steps).with_rescale(teacher.rescale);
        settings.guidance_scale = teacher.guidance;
        settings.negative_prompt = teacher.negative.clone();
        settings.sampler = teacher.sampler;
        request.with_method(settings)
    }
}
