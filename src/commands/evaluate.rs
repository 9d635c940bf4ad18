mod run;
mod task;
mod verdicts;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use burn::tensor::Device;
use clap::Args;
use dmd_data::shapes::Scene;
use dmd_data::{Dataset, ImageFolder, grid, save};
use dmd_eval::frechet::{Accumulated, Moments};
use dmd_eval::kernel::Kernel;
use dmd_eval::manifold::{Manifold, recall};
use dmd_eval::{ClipScore, FeatureSpace, InceptionSpace, RandomConv, retrieval};
use dmd_infer::{Method, Pipeline, PipelineBuilder, Request};
use dmd_model::pixels::{from_rgb8, to_rgb8};
use dmd_model::{Codec, with_model};
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use self::run::Exported;
use self::task::{Real, Task};
use self::verdicts::share;
use super::{DtypeArgs, JsonArgs, ModelArgs, PartsArgs, print_notes, print_opening, print_recipe, progress};
use crate::console::{bar_target, note, say, say_part};

/// Measure a model, and its generator against its teacher: Fréchet and kernel distance, precision, recall, prompt accuracy,
/// retrieval, CLIP score
#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Number of prompts: held-out ones of the shapes set, or the first captions of --data
    #[arg(long, default_value_t = 400)]
    prompts: usize,
    /// Numbers of steps to measure, e.g. 50,1: the generator's own number measures the generator, any other number its
    /// teacher [default: 50 and the generator's]
    #[arg(long, value_delimiter = ',')]
    steps: Vec<usize>,
    /// Classifier-free guidance of the teacher [default: the one that the generator was distilled with]
    #[arg(long)]
    guidance: Option<f64>,
    /// Seed of prompts and pictures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measure the newest checkpoint of a distillation, with the teacher and the data of its configuration: the folder that
    /// is its `output`, e.g. --run runs/a
    #[arg(long, conflicts_with_all = ["model", "generator", "recipe"])]
    run: Option<PathBuf>,
    /// With --run: the step of a checkpoint that was kept (`pace.keep`) [default: the newest]
    #[arg(long, value_name = "STEP", requires = "run")]
    checkpoint: Option<usize>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    parts: PartsArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    /// Folder of real pictures with metadata.jsonl in place of the shapes set; its captions are the prompts (for a model
    /// of classes, their names)
    #[arg(long)]
    data: Option<PathBuf>,
    /// Inception's file (pt_inception-2015-12-05-6726825d, .pth or .safetensors) in place of the fixed small network
    #[arg(long)]
    inception: Option<PathBuf>,
    /// Folder of a CLIPModel with its tokenizer, for the CLIP score
    #[arg(long)]
    clip: Option<PathBuf>,
    /// Folder of known pictures with metadata.jsonl, for retrieval: how often the nearest known picture, or one of the
    /// nearest five, has the name that the prompt asked for. A name is a caption up to its first comma
    #[arg(long)]
    retrieval: Option<PathBuf>,
    /// Folder to write grids into: for each number of steps the first 32 pictures, and the first 32 that do not show what
    /// the prompt asked for
    #[arg(long)]
    grids: Option<PathBuf>,
    #[command(flatten)]
    print: JsonArgs,
}

/// Prompts per call, and real pictures in memory at a time.
const BATCH: usize = 20;
/// Most pictures that precision and recall compare.
const COMPARED: usize = 2000;
/// Neighbours of precision and recall (Kynkäänniemi et al. 2019).
const NEIGHBOURS: usize = 3;
/// Pictures of a grid.
const SHOWN: usize = 32;

/// What a method's pictures are measured with.
struct Measures<'a> {
    space: Box<dyn FeatureSpace>,
    clip: Option<ClipScore>,
    known: Option<Known>,
    real: &'a Real,
    kernel: Kernel,
    /// Of the real pictures, where there are enough.
    manifold: Option<Manifold<'a>>,
    json: bool,
}

/// Pictures among which drawn ones are looked for.
struct Known {
    features: Vec<Vec<f64>>,
    captions: Vec<String>,
}

/// A caption up to its first comma.
fn name(caption: &str) -> &str {
    caption.split(',').next().unwrap_or(caption).trim()
}

/// A method's pictures, measured; the pictures themselves are gone but for a few.
#[derive(Default)]
struct Measured {
    features: Vec<Vec<f64>>,
    /// 1 of each picture that shows what was asked for, 0 of any other; nothing where nobody can judge.
    right: Vec<f64>,
    cosines: Vec<f64>,
    /// At which place the known pictures' first one of the name is.
    places: Vec<Option<usize>>,
    /// The first pictures.
    shown: Vec<RgbImage>,
    /// Captions and the first pictures that are not what was asked for.
    wrong: Vec<String>,
    shown_wrong: Vec<RgbImage>,
}

pub(crate) fn evaluate(args: &EvaluateArgs) -> anyhow::Result<()> {
    ensure!(args.prompts >= 2, "--prompts {} is too few to measure anything", args.prompts);
    let device = args.model.device()?;
    let mut options = args.parts.options(&args.model, args.dtype)?;
    let run = args.run.as_ref().map(|run| Exported::new(run, args.checkpoint, &device)).transpose()?;
    if let Some(run) = &run {
        options.model = run.teacher.clone();
        options.generator = Some(run.generator());
    }
    let data = match (&args.data, &run) {
        (Some(data), _) => Some(data.clone()),
        (None, Some(run)) => run.data()?,
        (None, None) => None,
    };
    let mut builder = PipelineBuilder::from(options);
    if let Some(recipe) = builder.generator_recipe()? {
        if let (Some(_), Some(scale)) = (recipe.told_guidance, args.guidance) {
            builder = builder.told_guidance(scale);
        }
        // Where the recipe leaves the number open, the one that is asked for.
        let own = args.steps.contains(&recipe.steps());
        let possible =
            |steps: &&usize| recipe.possible_steps().is_some_and(|possible| possible.contains(*steps));
        let open: Vec<usize> = args.steps.iter().filter(possible).copied().collect();
        ensure!(
            own || open.len() <= 1,
            "the generator can be called in {open:?} steps; measure one number at a time"
        );
        if let (false, [steps]) = (own, open.as_slice()) {
            builder = builder.recipe_steps(*steps);
        }
    }
    let pipeline = builder.build()?;
    print_opening(pipeline.notes());
    let task = args.task(data.as_deref(), &pipeline)?;
    let space: Box<dyn FeatureSpace> = match &args.inception {
        Some(path) => Box::new(InceptionSpace::from_file(path, &device)?),
        None => Box::new(RandomConv::new(&device)),
    };
    let clip = args.clip.as_ref().map(|folder| ClipScore::from_dir(folder, &device)).transpose()?;
    let known = args.retrieval.as_ref().map(|folder| {
        let (_, width) = pipeline.default_size();
        Known::open(folder, u32::try_from(width)?, space.as_ref())
    });
    let known = known.transpose()?;
    let real = task.real(space.as_ref())?;
    let kernel = Kernel::new(&real.compared);
    let manifold = (real.compared.len() > NEIGHBOURS).then(|| Manifold::new(&real.compared, NEIGHBOURS));
    let measures = Measures { space, clip, known, real: &real, kernel, manifold, json: args.print.json };

    let generator = pipeline.generator_steps();
    let teacher = pipeline.has_teacher().then_some(50);
    let default = [teacher, generator].into_iter().flatten().collect();
    let steps = if args.steps.is_empty() { default } else { args.steps.clone() };
    if steps.iter().any(|steps| Some(*steps) != generator) {
        print_notes(pipeline.noising());
    }
    if steps.iter().any(|steps| Some(*steps) == generator) {
        pipeline.generator_recipe().into_iter().for_each(print_recipe);
    }
    let mut measured = Vec::new();
    for steps in steps {
        let method = args.method(steps, &pipeline)?;
        let found = measures.measure(&pipeline, &task, &method, args.seed)?;
        measures.print(steps, &found, &task);
        if let Some(folder) = &args.grids {
            found.write(&folder.join(format!("steps-{steps}")))?;
        }
        measured.push((Some(steps) == generator, found));
    }
    let of = |distilled: bool| measured.iter().find(|(found, _)| *found == distilled);
    if let (Some((_, student)), Some((_, teacher))) = (of(true), of(false)) {
        progress::at("comparing");
        measures.compare(student, teacher);
    }
    if task.scenes.is_empty() {
        return Ok(());
    }
    with_model!(pipeline.model(), model => measures.bounds(&model.codec, &device, &task))
}

impl EvaluateArgs {
    fn task(&self, data: Option<&Path>, pipeline: &Pipeline) -> anyhow::Result<Task> {
        let classes = pipeline.model().classes();
        let Some(path) = data else {
            ensure!(
                classes.is_none(),
                "this model draws classes: give --data FOLDER with pictures whose captions are the classes"
            );
            return Ok(Task::shapes(self.prompts, self.seed));
        };
        let (_, width) = pipeline.default_size();
        let mut task = Task::folder(path, u32::try_from(width)?, self.prompts)?;
        task.dataset.notes().iter().for_each(|text| note!("{text}"));
        if classes.is_some_and(|classes| classes.names().is_empty()) {
            // An unconditional model draws without prompts.
            task.captions.iter_mut().for_each(String::clear);
        }
        ensure!(task.captions.len() >= 2, "{path:?} has too few captions to measure anything");
        Ok(task)
    }

    fn method(&self, steps: usize, pipeline: &Pipeline) -> anyhow::Result<Method> {
        match pipeline.generator_steps() {
            Some(own) if own == steps => Ok(Method::Distilled),
            own => {
                ensure!(
                    steps != 1,
                    match own {
                        Some(own) => format!("this generator was distilled for {own} steps; ask for --steps {own}"),
                        None =>
                            "the model has no one-step generator; ask for the teacher's steps, e.g. --steps 50, or name one with --generator"
                                .to_owned(),
                    }
                );
                Ok(Method::teacher(steps, self.guidance.unwrap_or(pipeline.default_guidance())))
            }
        }
    }
}

impl Known {
    fn open(folder: &Path, side: u32, space: &dyn FeatureSpace) -> anyhow::Result<Self> {
        let pictures = ImageFolder::open(folder, side)?;
        let (mut features, mut captions) = (Vec::new(), Vec::new());
        for start in (0..pictures.len()).step_by(BATCH) {
            let places = start..pictures.len().min(start + BATCH);
            let examples =
                places.map(|place| Ok(pictures.get(place)?)).collect::<anyhow::Result<Vec<_>>>()?;
            let (images, texts): (Vec<RgbImage>, Vec<String>) =
                examples.into_iter().map(|example| (example.image, example.caption)).unzip();
            features.extend(space.features(&images));
            captions.extend(texts);
            progress::at(format!("{} of {} known pictures read", features.len(), pictures.len()));
        }
        Ok(Self { features, captions })
    }

    fn places(&self, captions: &[String], features: &[Vec<f64>]) -> Vec<Option<usize>> {
        let names =
            |captions: &'_ [String]| captions.iter().map(|caption| name(caption).to_owned()).collect();
        let (known, asked): (Vec<String>, Vec<String>) = (names(&self.captions), names(captions));
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        retrieval::places(&self.features, &known, features, &asked)
    }
}

impl Measures<'_> {
    /// Draws every prompt and measures the pictures, a few at a time.
    fn measure(
        &self,
        pipeline: &Pipeline,
        task: &Task,
        method: &Method,
        seed: u64,
    ) -> anyhow::Result<Measured> {
        let bar = ProgressBar::with_draw_target(Some(task.captions.len() as u64), bar_target());
        bar.set_style(ProgressStyle::with_template("{bar:24} {pos}/{len} {eta} left")?);
        progress::at("drawing");
        let mut found = Measured::default();
        for (chunk, captions) in task.captions.chunks(BATCH).enumerate() {
            let first = seed.wrapping_mul(1_000_000).wrapping_add((chunk * BATCH) as u64);
            let request = Request::new(captions.to_vec())
                .with_seeds((0..captions.len() as u64).map(|i| first.wrapping_add(i)))
                .with_method(method.clone());
            let pictures = pipeline.generate(&request)?.pictures;
            found.features.extend(self.space.features(&pictures));
            if let Some(clip) = &self.clip {
                found.cosines.extend(clip.cosines(&pictures, captions)?);
            }
            found.judge(task.dataset.as_ref(), captions, &pictures);
            found.shown.extend(pictures.into_iter().take(SHOWN - found.shown.len()));
            let drawn = found.features.len();
            bar.set_position(drawn as u64);
            progress::at(format!("{drawn} of {} pictures measured", task.captions.len()));
        }
        bar.finish_and_clear();
        if let Some(known) = &self.known {
            found.places = known.places(&task.captions, &found.features);
            ensure!(
                found.places.iter().any(Option::is_some),
                "no picture of --retrieval has the name of a prompt: {:?} is not among {:?} ..",
                name(&task.captions[0]),
                known.captions.first().map_or("", |caption| name(caption))
            );
        }
        Ok(found)
    }

    /// Prints a method's line.
    fn print(&self, steps: usize, found: &Measured, task: &Task) {
        let (count, real) = (task.captions.len(), &self.real);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let distance = real.moments.distance(&Moments::of(&found.features));
        let compared = &found.features[..count.min(COMPARED)];
        let kernel = self.kernel.distance(compared);
        let right = (!found.right.is_empty()).then(|| found.right.iter().sum::<f64>());
        let manifold = self.manifold.as_ref().filter(|_| compared.len() > NEIGHBOURS);
        let near =
            manifold.map(|manifold| (manifold.share(compared), recall(&real.compared, compared, NEIGHBOURS)));
        let clip = self.clip.as_ref().map(|_| mean(&found.cosines));
        let retrieved = self.known.as_ref().map(|_| [1, 5].map(|most| mean(&found.within(most))));
        let unknown = found.places.iter().filter(|place| place.is_none()).count();
        if self.json {
            let line = json!({
                "steps": steps, "prompts": count, "right": right, "space": self.space.name(),
                "frechet_distance": distance, "kernel_distance": kernel,
                "precision": near.map(|(precision, _)| precision), "recall": near.map(|(_, recall)| recall),
                "clip_score": clip, "retrieval_top1": retrieved.map(|[first, _]| first),
                "retrieval_top5": retrieved.map(|[_, fifth]| fifth), "wrong": found.wrong,
            });
            say!("{line}");
            return;
        }
        say_part!("{steps:3} steps: ");
        if let Some(right) = right {
            say_part!("{right} of {count} prompts right ({:.2} %), ", 100.0 * right / count as f64);
        }
        say_part!("Fréchet distance {distance:.4}, kernel distance {kernel:.5} ({})", self.space.name());
        if let Some((precision, recall)) = near {
            say_part!(", precision {precision:.3}, recall {recall:.3}");
        }
        if let Some(score) = clip {
            say_part!(", CLIP score {score:.4}");
        }
        if let Some(retrieved) = retrieved {
            let [first, fifth] = retrieved.map(|share| 100.0 * share);
            say_part!(", retrieval {first:.1} % first, {fifth:.1} % of the nearest five");
            if unknown > 0 {
                say_part!(" ({unknown} prompts have a name that no known picture has)");
            }
        }
        say!("");
        for caption in &found.wrong {
            say!("          wrong: {caption}");
        }
    }

    /// Prints the limits that no sampler can pass: the share of prompts that the reader recognises in real pictures, before and
    /// after the autoencoder, and the distance that so many real pictures have to the reference.
    fn bounds(&self, codec: &Codec, device: &Device, task: &Task) -> anyhow::Result<()> {
        let keep =
            |pictures: &[RgbImage]| to_rgb8(codec.decode(codec.encode_mode(from_rgb8(pictures, device))));
        let mut rows = [("real pictures of these prompts", false), ("after the autoencoder", true)]
            .map(|(what, kept)| (what, kept, 0, Accumulated::default()));
        for (scenes, captions) in task.scenes.chunks(BATCH).zip(task.captions.chunks(BATCH)) {
            let rendered: Vec<RgbImage> = scenes.iter().map(Scene::render).collect();
            for (_, kept, right, all) in &mut rows {
                let pictures = if *kept { keep(&rendered) } else { rendered.clone() };
                *right += task.right(captions, &pictures).context("the shapes set judges its captions")?;
                all.add(&self.space.features(&pictures));
            }
        }
        for (what, _, right, all) in rows {
            let distance = self.real.moments.distance(&all.moments());
            match self.json {
                true => say!("{}", json!({"pictures": what, "right": right, "frechet_distance": distance})),
                false => say!("{what}: {right} right, Fréchet distance {distance:.4}"),
            }
        }
        Ok(())
    }
}

impl Measured {
    /// 1 of each picture whose name is among so many of the nearest known pictures, 0 of any other.
    fn within(&self, most: usize) -> Vec<f64> {
        self.places.iter().map(|place| share(place.is_some_and(|place| place < most))).collect()
    }

    /// Counts the pictures that show what their captions say.
    fn judge(&mut self, dataset: &dyn Dataset, captions: &[String], pictures: &[RgbImage]) {
        for (caption, picture) in captions.iter().zip(pictures) {
            match dataset.shows(caption, picture) {
                None => {}
                Some(true) => self.right.push(1.0),
                Some(false) => {
                    self.right.push(0.0);
                    self.wrong.push(caption.clone());
                    if self.shown_wrong.len() < SHOWN {
                        self.shown_wrong.push(picture.clone());
                    }
                }
            }
        }
    }

    /// Writes the grids, their names beginning with `place`.
    fn write(&self, place: &Path) -> anyhow::Result<()> {
        let named = |ending: &str| PathBuf::from(format!("{}{ending}.png", place.display()));
        save(&grid(&self.shown, 8), &named(""))?;
        if !self.shown_wrong.is_empty() {
            save(&grid(&self.shown_wrong, 8), &named("-wrong"))?;
        }
        Ok(())
    }
}
