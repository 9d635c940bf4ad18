//! Checks of a request before a network is called, and checks that the outputs of the stages are finite.

use burn::tensor::Tensor;
use dmd_model::{ConditionOf, Conditioner, Family, Model, Plan, TextFeatures};

use crate::Error;
use crate::request::{Request, TeacherSettings};

/// Maximum side of a picture in pixels. A larger number in a request is taken for a mistake.
const MAX_SIDE: usize = 4096;

/// Checks that a model can draw a request. Returns the plan of the sampler's steps, for the teacher and for a generator
/// whose recipe has a sampler.
pub(crate) fn check<F: Family>(model: &Model<F>, request: &Request) -> Result<Option<Plan>, Error> {
    let way = match request.teacher() {
        None => model.generator()?.recipe.walk.clone().map(Plan::Walk),
        Some(settings) => Some(plan(model, settings)?),
    };
    contradictions(request)?;
    if request.sizes.is_some() && !F::Conditioner::IS_TOLD_SIZES {
        return Err(Error::Setting {
            name: "size conditions",
            value: "given".to_owned(),
            wanted: "left out: this model is not told the picture's sizes, Stable Diffusion XL is".to_owned(),
        });
    }
    if let Some(embeddings) = &request.embeddings {
        model.conditioner.features(embeddings.prompt.clone())?;
        let tokens = embeddings.prompt.words.dims()[1];
        let encoded = request.teacher().is_some() && embeddings.negative.is_none();
        if let Some(wanted) = model.conditioner.max_tokens().filter(|wanted| encoded && tokens != *wanted) {
            return Err(Error::Setting {
                name: "embeddings",
                value: format!("of {tokens} tokens"),
                wanted: format!(
                    "of {wanted} tokens, as the negative prompt's are, or come with negative ones"
                ),
            });
        }
        if let Some(negative) = &embeddings.negative {
            let [count, tokens, width] = embeddings.prompt.words.dims();
            let rows = if negative.words.dims()[0] == 1 { 1 } else { count };
            check_shape("negative embeddings", negative.words.dims(), [rows, tokens, width])?;
        }
    } else {
        for prompt in &request.prompts {
            if prompt.trim().is_empty() && !F::Conditioner::DRAWS_WITHOUT_PROMPT {
                return Err(Error::EmptyPrompt);
            }
            model.conditioner.check(prompt)?;
        }
    }
    Ok(way)
}

/// Returns an error for two settings that contradict each other, or of which one has no effect on the other's method.
fn contradictions(request: &Request) -> Result<(), Error> {
    let settings = request.teacher();
    let start = settings.is_some_and(|settings| settings.start.is_some());
    let negative = settings.is_some_and(|settings| settings.negative_prompt.is_some());
    let given = request.embeddings.as_ref();
    let own = given.is_some_and(|embeddings| embeddings.negative.is_some());
    let both = |first, second| Err(Error::Contradiction { first, second });
    match () {
        () if start && request.latents.is_some() => both("latents", "a picture to start from"),
        () if own && negative => both("negative embeddings", "a negative prompt"),
        () if own && settings.is_none() => both("negative embeddings", "the distilled generator"),
        () if given.is_some() && request.clip_skip > 0 => both("embeddings", "a clip skip"),
        () if given.is_some() && !request.prompts.is_empty() => both("embeddings", "prompts"),
        () => Ok(()),
    }
}

fn plan<F: Family>(model: &Model<F>, settings: &TeacherSettings) -> Result<Plan, Error> {
    model.teacher()?;
    if let Some(scale) = settings.guidance_scale.filter(|scale| !(scale.is_finite() && *scale >= 1.0)) {
        return Err(Error::Guidance { scale });
    }
    let rescale = settings.guidance_rescale;
    if !(0.0..=1.0).contains(&rescale) {
        return Err(Error::Setting {
            name: "guidance rescale",
            value: rescale.to_string(),
            wanted: "between 0 and 1".to_owned(),
        });
    }
    if let Some(negative) = &settings.negative_prompt {
        model.conditioner.check(negative)?;
    }
    let plan = model.noising.plan(&settings.steps, settings.sampler)?;
    Ok(match &settings.start {
        Some(start) => plan.with_strength(start.strength)?,
        None => plan,
    })
}

/// Checks that given samples and features fit this model and each other.
pub(crate) fn check_inputs<F: Family>(
    model: &Model<F>,
    request: &Request,
    z: &Tensor<4>,
    text: &TextFeatures,
) -> Result<(), Error> {
    let start = request.teacher().is_some_and(|settings| settings.start.is_some());
    for (given, first) in [
        (start, "a picture to start from"),
        (request.latents.is_some(), "latents of the request"),
        (request.embeddings.is_some(), "embeddings of the request"),
    ] {
        if given {
            return Err(Error::Contradiction { first, second: "noise and features that are given" });
        }
    }
    let [count, _, height, width] = z.dims();
    let multiple = model.drawn_multiple();
    let whole = |side: usize| side.next_multiple_of(multiple).max(multiple);
    check_shape("latents", z.dims(), [count, model.shape()[0], whole(height), whole(width)])?;
    model.conditioner.features(text.clone())?;
    let [_, tokens, features] = text.words.dims();
    check_shape("embeddings", text.words.dims(), [count, tokens, features])?;
    if !request.seeds.is_empty() && request.seeds.len() != count {
        return Err(Error::Seeds { prompts: count, seeds: request.seeds.len() });
    }
    Ok(())
}

/// Height and width of a request's pictures, which are checked.
pub(crate) fn size_of<F: Family>(model: &Model<F>, request: &Request) -> Result<(usize, usize), Error> {
    let start = request.teacher().and_then(|settings| settings.start.as_ref());
    let start = start.map(|start| (start.picture.height() as usize, start.picture.width() as usize));
    let (height, width) = match (start, request.size) {
        (Some(found), Some((height, width))) if found != (height, width) => {
            return Err(Error::Setting {
                name: "size",
                value: format!("{width}×{height}"),
                wanted: format!("that of the picture to start from, {}×{}", found.1, found.0),
            });
        }
        (Some(found), _) => found,
        (None, size) => size.unwrap_or(model.picture_size()),
    };
    let multiple = model.picture_multiple();
    let fits = |side: usize| side > 0 && side.is_multiple_of(multiple) && side <= MAX_SIDE;
    if !(fits(height) && fits(width)) {
        return Err(Error::Size { width, height, multiple, max: MAX_SIDE });
    }
    if let Some(z) = &request.latents {
        let factor = model.codec.factor();
        let wanted = [request.count(), model.shape()[0], height / factor, width / factor];
        check_shape("latents", z.dims(), wanted)?;
    }
    Ok((height, width))
}

fn check_shape<const D: usize>(
    what: &'static str,
    found: [usize; D],
    wanted: [usize; D],
) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Setting { name: what, value: format!("{found:?}"), wanted: format!("of shape {wanted:?}") })
}

/// The seeds of a request, one per picture.
pub(crate) fn seeds_of(request: &Request) -> Result<Vec<u64>, Error> {
    let count = request.count();
    if count == 0 {
        return Err(Error::EmptyPrompt);
    }
    if request.seeds.is_empty() {
        return Ok((0..count as u64).collect());
    }
    if request.seeds.len() != count {
        return Err(Error::Seeds { prompts: count, seeds: request.seeds.len() });
    }
    Ok(request.seeds.clone())
}

/// Returns the condition of a prompt, or an error if it contains a NaN or an infinity.
pub(crate) fn finite_condition<F: Family>(
    condition: ConditionOf<F>,
    stage: &'static str,
) -> Result<ConditionOf<F>, Error> {
    if F::Conditioner::is_finite(&condition) { Ok(condition) } else { Err(Error::NotFinite { stage }) }
}

/// Returns the condition from text features of the request, or an error if it contains a NaN or an infinity.
pub(crate) fn given_condition<F: Family>(condition: ConditionOf<F>) -> Result<ConditionOf<F>, Error> {
    let what = "given embeddings";
    if F::Conditioner::is_finite(&condition) { Ok(condition) } else { Err(Error::NotFiniteInput { what }) }
}

/// Returns the noise of the request, or an error if it contains a NaN or an infinity.
pub(crate) fn given_latents(latents: Tensor<4>) -> Result<Tensor<4>, Error> {
    if is_finite(&latents) { Ok(latents) } else { Err(Error::NotFiniteInput { what: "given latents" }) }
}

/// Whether all values of a tensor are finite.
fn is_finite<const D: usize>(tensor: &Tensor<D>) -> bool {
    // A sum of absolute values is finite only if every value is finite. A sum of finite f32 latents cannot overflow
    // here.
    tensor.clone().abs().sum().into_scalar::<f32>().is_finite()
}

/// Returns the tensor, or an error if it contains a NaN or an infinity.
pub(crate) fn finite<const D: usize>(tensor: Tensor<D>, stage: &'static str) -> Result<Tensor<D>, Error> {
    if is_finite(&tensor) { Ok(tensor) } else { Err(Error::NotFinite { stage }) }
}
