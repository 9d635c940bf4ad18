use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Args;
use dmd_infer::{Method, PipelineBuilder, Request};
use dmd_model::TeacherOf;
use font8x8::{BASIC_FONTS, UnicodeFonts};
use image::imageops;
use image::{Rgb, RgbImage};
use serde_json::json;

use super::{
    DtypeArgs, JsonArgs, ModelArgs, PartsArgs, PromptArgs, print_notes, print_opening, print_recipe,
};
use crate::console::say;
use crate::picture_file::{Pictures, enlarged};

/// Draw prompts with teacher and generator, side by side in one picture
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    prompts: PromptArgs,
    /// Seed of the first row; each further row adds 1
    #[arg(long, default_value_t = 0, value_parser = super::seed, allow_negative_numbers = true)]
    seed: u64,
    /// Sampling steps of the teacher
    #[arg(long, default_value_t = 50)]
    steps: usize,
    /// Classifier-free guidance of the teacher [default: the one that the generator was distilled with]
    #[arg(long)]
    guidance: Option<f64>,
    /// How often each method is timed; the medians are printed
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    dtype: DtypeArgs,
    #[command(flatten)]
    parts: PartsArgs,
    /// Picture to write; its ending chooses the format: png, jpg or webp
    #[arg(long, default_value = "compare.png")]
    out: PathBuf,
    #[command(flatten)]
    print: JsonArgs,
}

/// Height of a line of text, pixels.
const LINE: u32 = 14;
const GAP: u32 = 8;

pub(crate) fn compare(args: &CompareArgs) -> anyhow::Result<()> {
    let out = Pictures::new(&args.out, 1)?;
    let prompts = args.prompts.read()?;
    let builder = PipelineBuilder::from(args.parts.options(&args.model, args.dtype)?);
    match builder.generator_recipe()? {
        None => bail!(
            "there is nothing to compare: this model has only a teacher; name a distilled generator of it (--generator), or a \
             LoRA that makes one"
        ),
        Some(recipe) => ensure!(
            recipe.teacher != TeacherOf::Nothing,
            "there is nothing to compare: this model is itself a generator of few steps; name its teacher as the model, and \
             this one by --generator"
        ),
    }
    let pipeline = builder.build()?;
    print_notes(pipeline.noising());
    print_opening(pipeline.notes());
    pipeline.generator_recipe().into_iter().for_each(print_recipe);
    let guidance_scale = args.guidance.unwrap_or(pipeline.default_guidance());
    let teacher = Method::teacher(args.steps, guidance_scale);
    let mut rows = Vec::new();
    let (mut slow, mut fast) = (Vec::new(), Vec::new());
    for (i, prompt) in prompts.iter().enumerate() {
        let seed = args.seed.wrapping_add(i as u64);
        let request =
            |method: &Method| Request::new([prompt.clone()]).with_seeds([seed]).with_method(method.clone());
        // The first call warms caches up and is not timed.
        let mut pictures = Vec::new();
        for (method, times) in [(&teacher, &mut slow), (&Method::Distilled, &mut fast)] {
            pictures.extend(pipeline.generate(&request(method))?.pictures);
            for _ in 0..args.repeats.max(1) {
                times.push(pipeline.generate(&request(method))?.timings.total());
            }
        }
        rows.push((format!("{prompt}  (seed {seed})"), pictures));
    }
    let (slow, fast) = (median(slow), median(fast));
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let labels = [
        format!("teacher, {} steps: {:.0} ms", args.steps, ms(slow)),
        match pipeline.generator_steps() {
            Some(steps) if steps > 1 => format!("generator, {steps} steps: {:.1} ms", ms(fast)),
            _ => format!("one step: {:.1} ms", ms(fast)),
        },
    ];
    out.write(0, &sheet(&labels, &rows), None)?;
    if args.print.json {
        let line = json!({
            "path": args.out, "prompts": prompts.len(), "ratio": ms(slow) / ms(fast),
            "teacher": {"steps": args.steps, "guidance": guidance_scale, "median_ms": ms(slow)},
            "generator": {"steps": pipeline.generator_steps(), "median_ms": ms(fast)},
        });
        say!("{line}");
        return Ok(());
    }
    say!("{}\n{}", labels[0], labels[1]);
    say!("ratio {:.1}, prompt to pixels, medians; wrote {}", ms(slow) / ms(fast), args.out.display());
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Two labelled columns, one captioned row per prompt.
fn sheet(labels: &[String; 2], rows: &[(String, Vec<RgbImage>)]) -> RgbImage {
    let (width, height) = enlarged(&rows[0].1[0]).dimensions();
    let row = height + LINE + GAP;
    let mut sheet =
        RgbImage::from_pixel(2 * width + 3 * GAP, LINE + GAP + rows.len() as u32 * row, Rgb([255; 3]));
    for (column, label) in labels.iter().enumerate() {
        write_text(&mut sheet, label, GAP + column as u32 * (width + GAP), 4);
    }
    for (i, (caption, pictures)) in rows.iter().enumerate() {
        let top = LINE + GAP + i as u32 * row;
        for (column, picture) in pictures.iter().enumerate() {
            let shown = enlarged(picture);
            let left = GAP + column as u32 * (width + GAP);
            imageops::replace(&mut sheet, &shown, i64::from(left), i64::from(top));
        }
        write_text(&mut sheet, caption, GAP, top + height + 3);
    }
    sheet
}

/// Eight pixels per character; what has no glyph is left blank, what does not fit is cut.
fn write_text(sheet: &mut RgbImage, text: &str, left: u32, top: u32) {
    for (i, character) in text.chars().enumerate() {
        let glyph = BASIC_FONTS.get(character).unwrap_or_default();
        for (y, bits) in glyph.iter().enumerate() {
            for x in 0..8 {
                let at = (left + 8 * i as u32 + x, top + y as u32);
                if bits >> x & 1 == 1 && at.0 < sheet.width() && at.1 < sheet.height() {
                    sheet.put_pixel(at.0, at.1, Rgb([40; 3]));
                }
            }
        }
    }
}
