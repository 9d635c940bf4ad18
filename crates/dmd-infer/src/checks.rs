//! What can be refused before a network is called.

use burn::tensor::Tensor;

use crate::request::{Method, Request, Start};
use crate::{Error, Pipeline};

/// Largest picture, in pixels of one side: a request above it is a slip, not a wish.
const MAX_SIDE: usize = 4096;

impl Pipeline {
    /// Everything that can be refused before a network is called.
    pub(crate) fn check(&self, request: &Request) -> Result<(), Error> {
        match request.method {
            Method::OneStep => self.check_one_step(request)?,
            Method::Teacher { guidance_scale, .. } => {
                self.teacher()?;
                let rescale = request.guidance_rescale;
                if !(guidance_scale.is_finite() && guidance_scale >= 1.0) {
                    return Err(Error::Guidance { scale: guidance_scale });
                }
                if !(0.0..=1.0).contains(&rescale) {
                    return Err(Error::Setting {
                        name: "guidance rescale",
                        value: rescale.to_string(),
                        wanted: "between 0 and 1".to_owned(),
                    });
                }
                self.walk(request)?;
            }
        }
        let (height, width) = self.size_of(request)?;
        if let Start::Latents(z) = &request.start {
            let mut wanted = self.latent_shape(height, width);
            wanted[0] = request.count();
            check_shape("latents", z.dims(), wanted)?;
        }
        if let Some(embeddings) = &request.embeddings {
            let tokens = self.text.tokenizer().max_tokens();
            let [count, found, _] = embeddings.prompt.dims();
            let width = self.unet.cross_attention_dim;
            check_shape("embeddings", embeddings.prompt.dims(), [count, found.min(tokens), width])?;
            if let Some(negative) = &embeddings.negative {
                let rows = if negative.dims()[0] == 1 { 1 } else { count };
                check_shape("negative embeddings", negative.dims(), [rows, found, width])?;
            }
        }
        Ok(())
    }

    /// Given latents and features fit this model and each other.
    pub(crate) fn check_inputs(&self, z: &Tensor<4>, text: &Tensor<3>) -> Result<(), Error> {
        let [count, _, height, width] = z.dims();
        let multiple = self.unet.downsampling();
        let whole = |side: usize| side.next_multiple_of(multiple).max(multiple);
        check_shape("latents", z.dims(), [count, self.unet.in_channels, whole(height), whole(width)])?;
        let [_, tokens, _] = text.dims();
        check_shape("embeddings", text.dims(), [count, tokens, self.unet.cross_attention_dim])
    }

    /// A distilled generator knows one call: settings that would have no effect, or another one than
    /// its user means, are refused.
    fn check_one_step(&self, request: &Request) -> Result<(), Error> {
        let generator = self.generator()?;
        let timesteps = &generator.timesteps;
        let contradicts = |setting: &str| {
            Err(Error::OneStepSetting { setting: setting.to_owned(), timesteps: timesteps.clone() })
        };
        if request.negative_prompt.as_ref().is_some_and(|prompt| !prompt.is_empty()) {
            return contradicts("a negative prompt");
        }
        if request.guidance_rescale != 0.0 {
            return contradicts("a guidance rescale");
        }
        if let Some(sampler) = request.sampler {
            return contradicts(&format!("the sampler {}", sampler.name()));
        }
        if let Some(list) = request.timesteps.as_ref().filter(|list| *list != timesteps) {
            return contradicts(&format!("timesteps {list:?}"));
        }
        if matches!(request.start, Start::Picture { .. }) {
            return contradicts("a picture to start from");
        }
        Ok(())
    }

    /// Height and width of a request's pictures.
    pub(crate) fn size_of(&self, request: &Request) -> Result<(usize, usize), Error> {
        let side = self.default_size();
        let (height, width) = match (&request.start, request.size) {
            (Start::Picture { picture, .. }, None) => (picture.height() as usize, picture.width() as usize),
            (Start::Picture { picture, .. }, Some((height, width)))
                if (picture.height() as usize, picture.width() as usize) != (height, width) =>
            {
                return Err(Error::Setting {
                    name: "size",
                    value: format!("{width}×{height}"),
                    wanted: format!(
                        "that of the picture to start from, {}×{}",
                        picture.width(),
                        picture.height()
                    ),
                });
            }
            (_, size) => size.unwrap_or((side, side)),
        };
        let multiple = self.coder.factor * self.unet.downsampling();
        let fits = |side: usize| side > 0 && side.is_multiple_of(multiple) && side <= MAX_SIDE;
        if fits(height) && fits(width) {
            return Ok((height, width));
        }
        Err(Error::Size { width, height, multiple, max: MAX_SIDE })
    }
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

/// One seed per picture.
pub(crate) fn seeds_of(request: &Request) -> Result<Vec<u64>, Error> {
    let count = request.count();
    let blank = request.embeddings.is_none() && request.prompts.iter().any(|prompt| prompt.trim().is_empty());
    if count == 0 || blank {
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
