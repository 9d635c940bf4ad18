use std::path::PathBuf;

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use dmd_data::{Background, open_picture};
use dmd_infer::{
    Method, NoiseSource, Observer, Pipeline, PipelineBuilder, Progress, Request, Sampler, SizeConditions,
    Stage, Steps, TeacherSettings,
};
use dmd_model::{Recipe, TeacherOf};
use image::RgbImage;
use serde_json::json;

use super::progress::{Interrupted, Steps as ShownSteps, interrupted, listen};
use super::{
    DtypeArgs, JsonArgs, ModelArgs, PartsArgs, PromptArgs, print_notes, print_opening, print_recipe,
};
use crate::console::{note, say};
use crate::picture_file::Pictures;
use crate::show::Show;

/// Draw pictures of prompts
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    prompts: PromptArgs,
    /// Seed of the first picture; each further picture adds 1
    #[arg(long, default_value_t = 0, value_parser = super::seed, allow_negative_numbers = true)]
    seed: u64,
    /// Which of PyTorch's random generators to imitate; diffusers with the same generator starts from the same noise
    #[arg(long, value_enum, default_value_t = NoiseArg::TorchCpu)]
    noise: NoiseArg,
    /// Pictures per prompt
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// Number of steps: the generator's own number (usually 1) draws with the generator, any other number with the teacher
    /// beside it [default: the generator's number, or 50 if the model has no generator]
    #[arg(long)]
    steps: Option<usize>,
    /// The teacher's timesteps instead of a number of steps, e.g. 981,721,441,181
    #[arg(long, value_delimiter = ',', conflicts_with = "steps")]
    timesteps: Option<Vec<usize>>,
    /// The teacher's sampler: ddim, ddpm, pndm, euler, euler-ancestral, heun, dpm++, unipc, lcm, tcd
    #[arg(long)]
    sampler: Option<Sampler>,
    /// Classifier-free guidance of the teacher [default: the one that the generator was distilled with, or 7.5 (5 for SDXL)],
    /// or the guidance that a latent consistency model takes as its input [default: 8.5]
    #[arg(long)]
    guidance: Option<f64>,
    /// Share from 0 to 1 by which the guided prediction is scaled back to the deviation that it has without guidance; it
    /// makes pictures at high guidance less glaring (teacher only)
    #[arg(long, default_value_t = 0.0)]
    guidance_rescale: f64,
    /// What pictures should not show (teacher only); for SDXL, the empty prompt "" differs from leaving the option out
    #[arg(long)]
    negative: Option<String>,
    /// Number of last layers of the text encoder to skip
    #[arg(long, default_value_t = 0)]
    clip_skip: usize,
    /// A picture to start from instead of noise (teacher only)
    #[arg(long)]
    init: Option<PathBuf>,
    /// How much of that picture is drawn anew, from 0 (nothing) to 1 (everything)
    #[arg(long, default_value_t = 0.8, requires = "init")]
    strength: f64,
    /// Width and height in pixels, e.g. 512x768 [default: the model's own]
    #[arg(long, value_parser = size)]
    size: Option<(usize, usize)>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    parts: PartsArgs,
    /// SDXL: the size that the network takes for the picture's size before it was resized, e.g. 4096x4096; a small one gives
    /// blurred pictures [default: the picture's own]
    #[arg(long, value_parser = size, value_name = "WIDTHxHEIGHT")]
    original_size: Option<(usize, usize)>,
    /// SDXL: the size that the network takes for the picture's target size [default: the picture's own]
    #[arg(long, value_parser = size, value_name = "WIDTHxHEIGHT")]
    target_size: Option<(usize, usize)>,
    /// SDXL: how many pixels the network takes to be cut off at the left and at the top, e.g. 0x0 [default: nothing is cut]
    #[arg(long, value_parser = size, value_name = "LEFTxTOP")]
    crop: Option<(usize, usize)>,
    /// Folder of an AutoencoderTiny (TAESD) that decodes in place of the full autoencoder
    #[arg(long)]
    taesd: Option<PathBuf>,
    /// Decode large pictures in overlapping tiles with sides of so many latents, e.g. 64
    #[arg(long)]
    tile: Option<usize>,
    /// Pictures that go through the networks together [default: 2 of 512x512, more of smaller ones, at most 32]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    at_a_time: Option<u16>,
    /// Picture to write; its ending chooses the format: png, jpg or webp; several pictures are numbered; `-` is standard output
    #[arg(long, default_value = "picture.png")]
    out: PathBuf,
    /// Show each picture in the terminal too; without a name in the way that the terminal is known for
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "auto", conflicts_with = "json")]
    show: Option<Show>,
    #[command(flatten)]
    print: JsonArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NoiseArg {
    /// PyTorch's CPU generator
    TorchCpu,
    /// PyTorch's CUDA generator
    TorchCuda,
}

/// `WIDTHxHEIGHT` as `(height, width)`.
fn size(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once(['x', '×']);
    let parts = parts.and_then(|(w, h)| Some((h.parse().ok()?, w.parse().ok()?)));
    parts.ok_or_else(|| format!("{text:?} is no size; write e.g. 512x768"))
}

/// Steps of a model without a distilled generator, where nobody names a number: diffusers' default.
const USUAL_STEPS: usize = 50;

/// Most pictures of one command: more is a slip.
const MOST: usize = 1_000_000;

impl GenerateArgs {
    /// Seed of the first picture.
    #[cfg(test)]
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    fn builder(&self) -> anyhow::Result<PipelineBuilder> {
        let mut builder = PipelineBuilder::from(self.parts.options(&self.model, self.dtype)?);
        if let Some(folder) = &self.taesd {
            builder = builder.tiny_autoencoder(folder);
        }
        if let Some(side) = self.tile {
            builder = builder.tiles(side);
        }
        if let Some(pictures) = self.at_a_time {
            builder = builder.at_a_time(pictures.into());
        }
        Ok(builder)
    }

    /// The way that the options ask for. What a distilled generator would ignore is refused.
    fn method(&self, generator: Option<&Recipe>) -> anyhow::Result<Method> {
        let steps = self.timesteps.as_ref().map(Vec::len).or(self.steps);
        let Some(recipe) = generator else { return Ok(self.teacher(steps.unwrap_or(USUAL_STEPS))?.into()) };
        let own = recipe.steps();
        let setting = self.contradiction(recipe);
        if setting.is_none() && steps.is_none_or(|steps| steps == own) {
            return Ok(Method::Distilled);
        }
        let at = recipe.timesteps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match (recipe.teacher, setting, steps) {
            // Any other number is the teacher's.
            (TeacherOf::UNet, _, Some(steps)) if steps != 1 => Ok(self.teacher(steps)?.into()),
            (TeacherOf::UNet, Some(setting), _) => bail!(
                "{setting} does not go with this distilled generator: it is called at t = {at}, without guidance (its \
                 teacher was guided); leave it out, or ask for the teacher's steps, e.g. --steps 30"
            ),
            (TeacherOf::UNet, None, _) => bail!(
                "this generator was distilled for {own} steps; ask for --steps {own}, or leave --steps out"
            ),
            (_, Some(setting), _) if recipe.told_guidance.is_some() => bail!(
                "{setting} does not go with a latent consistency model, which is called at t = {at}; leave it out"
            ),
            // With a setting that no recipe has, the model is drawn as any other.
            (_, Some(_), _) => Ok(self.teacher(steps.unwrap_or(own))?.into()),
            (_, None, _) => {
                let name = recipe.name.as_ref().map(|name| format!(" (recipe {name})")).unwrap_or_default();
                let possible = match recipe.possible_steps() {
                    Some(steps) => format!("{} to {}", steps.start(), steps.end()),
                    None => own.to_string(),
                };
                bail!(
                    "this model is called in {possible} steps{name}, and not in {}; to draw with it as with any other, say \
                     --recipe none",
                    steps.unwrap_or(own)
                )
            }
        }
    }

    /// An option that a generator cannot follow.
    fn contradiction(&self, generator: &Recipe) -> Option<String> {
        let other = self.timesteps.as_ref().filter(|list| generator.timesteps != **list);
        let told = generator.told_guidance.is_some();
        let negative = self.negative.as_ref().filter(|prompt| !prompt.is_empty());
        None.or(other.map(|list| format!("--timesteps {list:?}")))
            .or(self
                .guidance
                .filter(|scale| *scale != 1.0 && !told)
                .map(|scale| format!("--guidance {scale}")))
            .or(self.sampler.map(|sampler| format!("--sampler {}", sampler.name())))
            .or(negative.map(|_| "--negative".to_owned()))
            .or((self.guidance_rescale != 0.0).then(|| "--guidance-rescale".to_owned()))
            .or(self.init.as_ref().map(|_| "--init".to_owned()))
    }

    /// The builder for the way that the options ask for, the way, and how a generator is called. Half the networks stay on
    /// the disk.
    fn choose(
        &self,
        mut builder: PipelineBuilder,
    ) -> anyhow::Result<(PipelineBuilder, Method, Option<Recipe>)> {
        let mut recipe = builder.generator_recipe()?;
        let open = recipe.as_ref().filter(|recipe| self.contradiction(recipe).is_none());
        let open = open.and_then(Recipe::possible_steps);
        if let Some(steps) = self.steps.filter(|steps| open.is_some_and(|open| open.contains(steps))) {
            builder = builder.recipe_steps(steps);
            recipe = builder.generator_recipe()?;
        }
        let method = self.method(recipe.as_ref())?;
        let told = recipe.as_ref().and_then(|recipe| recipe.told_guidance);
        match (&method, &recipe) {
            (Method::Distilled, _) => {
                if let (Some(_), Some(scale)) = (told, self.guidance) {
                    builder = builder.told_guidance(scale);
                    recipe = builder.generator_recipe()?;
                }
                Ok((builder.one_step_only(), method, recipe))
            }
            (Method::Teacher(_), Some(of_unet)) if of_unet.teacher != TeacherOf::UNet => {
                let name = of_unet.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
                note!("drawn like any other model, because its recipe{name} does not have this setting");
                Ok((builder.recipe("none").teacher_only(), method, None))
            }
            (Method::Teacher(_), _) => Ok((builder.teacher_only(), method, recipe)),
        }
    }

    /// Says how pictures are drawn where nobody asked for it.
    fn say_how(&self, method: &Method, recipe: Option<&Recipe>, pipeline: &Pipeline) {
        match (method, recipe) {
            (Method::Distilled, Some(recipe)) => print_recipe(recipe),
            (Method::Teacher(settings), None) if self.steps.is_none() && self.timesteps.is_none() => {
                let scale = settings.guidance_scale.unwrap_or(pipeline.default_guidance());
                note!(
                    "this model has no distilled generator; it is drawn in {USUAL_STEPS} steps under guidance \
                     {scale}. Name a few-step generator by --generator, or by --recipe if the model itself is one"
                );
            }
            _ => {}
        }
    }

    fn teacher(&self, steps: usize) -> anyhow::Result<TeacherSettings> {
        let steps = self.timesteps.clone().map_or(Steps::Count(steps), Steps::Timesteps);
        let mut settings = TeacherSettings::new(steps).with_rescale(self.guidance_rescale);
        settings.guidance_scale = self.guidance;
        settings.negative_prompt = self.negative.clone();
        settings.sampler = self.sampler;
        if let Some(path) = &self.init {
            let opened = open_picture(path, Background::White)?;
            if opened.transparent {
                note!("transparent parts of {path:?} are drawn as white");
            }
            settings = settings.with_start(opened.image, self.strength);
        }
        Ok(settings)
    }

    /// What SDXL is told of the picture's sizes, where an option says so.
    fn sizes(&self, picture: (usize, usize)) -> Option<SizeConditions> {
        let (original, target, crop) = (self.original_size, self.target_size, self.crop);
        if original.is_none() && target.is_none() && crop.is_none() {
            return None;
        }
        let size = self.size.unwrap_or(picture);
        Some(SizeConditions {
            original: original.unwrap_or(size),
            crop: crop.unwrap_or((0, 0)),
            target: target.unwrap_or(size),
        })
    }

    /// `picture` is the model's own size.
    fn request(&self, prompts: &[String], method: Method, picture: (usize, usize)) -> Request {
        let prompts = prompts.iter().flat_map(|prompt| vec![prompt.clone(); self.count]);
        let mut request = Request::new(prompts).with_method(method).with_clip_skip(self.clip_skip);
        let count = request.prompts.len() as u64;
        request = request.with_seeds((0..count).map(|i| self.seed.wrapping_add(i)));
        request.size = self.size;
        request.sizes = self.sizes(picture);
        request.with_noise(match self.noise {
            NoiseArg::TorchCpu => NoiseSource::TorchCpu,
            NoiseArg::TorchCuda => NoiseSource::TorchCuda,
        })
    }
}

/// Writes each picture when it is drawn.
struct Writer<'a> {
    steps: ShownSteps,
    pipeline: &'a Pipeline,
    request: &'a Request,
    model: String,
    out: Pictures,
    show: Option<Show>,
    json: bool,
    /// Pictures written so far.
    written: usize,
    /// The first picture that could not be written; the request ends there.
    failed: Option<anyhow::Error>,
}

impl Writer<'_> {
    fn write(&mut self, place: usize, seed: u64, picture: &RgbImage) -> anyhow::Result<()> {
        let parameters = self.pipeline.describe(self.request, place, picture.dimensions(), &self.model);
        let path = self.out.write(place, picture, Some(&parameters))?;
        self.written += 1;
        let prompt = &self.request.prompts[place];
        match self.json {
            true => {
                let (width, height) = picture.dimensions();
                say!(
                    "{}",
                    json!({"path": path, "prompt": prompt, "seed": seed, "width": width, "height": height})
                );
            }
            false => say!("{}  seed {seed}  {prompt:?}", path.display()),
        }
        self.show.map_or(Ok(()), |show| show.print(picture))
    }
}

impl Observer for Writer<'_> {
    fn on_stage(&mut self, stage: Stage) {
        self.steps.on_stage(stage);
    }

    fn on_step(&mut self, progress: &Progress<'_>) {
        self.steps.on_step(progress);
    }

    fn on_picture(&mut self, place: usize, seed: u64, picture: &RgbImage) {
        if self.failed.is_none() {
            self.failed = self.write(place, seed, picture).err();
        }
    }

    fn cancelled(&self) -> bool {
        self.failed.is_some() || interrupted()
    }
}

pub(crate) fn generate(args: &GenerateArgs) -> anyhow::Result<()> {
    ensure!(args.count > 0, "--count 0 draws nothing; ask for at least 1");
    let prompts = args.prompts.read()?;
    let count = prompts.len().saturating_mul(args.count);
    ensure!(
        count <= MOST,
        "{} prompts, and --count {}, ask for {count} pictures; at most {MOST} are drawn at once",
        prompts.len(),
        args.count
    );
    let show = args.show.map(Show::resolved).transpose()?;
    let out = Pictures::new(&args.out, count)?;
    let start = std::time::Instant::now();
    let (builder, method, recipe) = args.choose(args.builder()?)?;
    let pipeline = builder.build()?;
    let loading = start.elapsed();
    if let Method::Teacher(_) = method {
        print_notes(pipeline.noising());
    }
    print_opening(pipeline.notes());
    args.say_how(&method, recipe.as_ref(), &pipeline);
    let request = args.request(&prompts, method, pipeline.default_size());
    let mut writer = Writer {
        steps: ShownSteps::new()?,
        pipeline: &pipeline,
        request: &request,
        model: args.model.name(),
        out,
        show,
        json: args.print.json,
        written: 0,
        failed: None,
    };
    listen("stopping; what was drawn is written")?;
    let timings = pipeline.generate_each(&request, &mut writer);
    if let Some(error) = writer.failed {
        return Err(error);
    }
    if interrupted() && writer.written < count {
        let written = writer.written;
        return Err(Interrupted(format!("stopped: {written} of {count} pictures are written")).into());
    }
    let t = timings?;
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    if args.print.json {
        let line = json!({
            "pictures": count, "total_ms": ms(t.total()), "text_ms": ms(t.text), "denoising_ms": ms(t.denoising),
            "decoding_ms": ms(t.decoding), "loading_ms": ms(loading),
        });
        say!("{line}");
        return Ok(());
    }
    say!(
        "{:.1} ms: text {:.1}, denoising {:.1}, decoding {:.1}; the model was read in {:.1} ms",
        ms(t.total()),
        ms(t.text),
        ms(t.denoising),
        ms(t.decoding),
        ms(loading)
    );
    Ok(())
}
