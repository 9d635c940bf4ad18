//! Checks that the parts of a model fit each other. The configurations are enough for this, so no network has to run.

use std::path::Path;

use dmd_clip::{TextConfig, Tokenizer};
use dmd_unet::Sizes;

use crate::Error;

/// The reasons why parts do not fit, one sentence each.
#[derive(Debug, Default)]
pub(crate) struct Misfits(Vec<String>);

/// Number of colour channels.
const COLOURS: usize = 3;

impl Misfits {
    pub(crate) fn into_reasons(self) -> Vec<String> {
        self.0
    }

    /// Returns an error if there is any reason.
    pub(crate) fn refuse(self, folder: &Path) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Error::Misfit { folder: folder.to_owned(), reasons: self.0 })
    }

    /// Checks that two parts have the same number.
    pub(crate) fn same(&mut self, what: &str, first: (&str, usize), second: (&str, usize)) {
        if first.1 != second.1 {
            self.0.push(format!("{} has {} {what}, {} has {}", first.0, first.1, second.0, second.1));
        }
    }

    /// Checks that teacher and generator agree in channels, levels, sample size and classes.
    pub(crate) fn networks(&mut self, networks: &[(&'static str, Sizes)]) {
        let [(first, one), (second, other)] = networks else { return };
        for (what, of) in [
            ("channels", (|sizes: &Sizes| sizes.in_channels) as fn(&Sizes) -> usize),
            ("levels of halving", |sizes| sizes.downsampling.ilog2() as usize),
            ("values a side of a sample", |sizes| sizes.sample_size),
            ("classes", |sizes| sizes.classes),
        ] {
            self.same(what, (&format!("the {first}"), of(one)), (&format!("the {second}"), of(other)));
        }
    }

    pub(crate) fn tokenizer(&mut self, tokenizer: &Tokenizer, text: &TextConfig) {
        let largest = tokenizer.largest_id() as usize;
        if largest >= text.vocab_size {
            self.0.push(format!(
                "the tokenizer's numbers go up to {largest}, the text encoder has {} tokens",
                text.vocab_size
            ));
        }
    }

    pub(crate) fn colours(&mut self, name: &str, input: usize, output: usize) {
        if input != COLOURS || output != COLOURS {
            self.0.push(format!(
                "the {name} reads {input} and writes {output} channels of colour, pictures have 3"
            ));
        }
    }

    /// Checks that a UNet fits the channels of the latents and the width of the text features.
    pub(crate) fn text_unet(&mut self, name: &str, sizes: Sizes, latents: usize, text: usize) {
        let input = sizes.in_channels;
        if input != latents {
            let what = match input {
                9 if latents == 4 => {
                    ": it is an inpainting model, which also reads a mask and a picture and is not supported"
                }
                8 if latents == 4 => {
                    ": it follows instructions on a second picture (InstructPix2Pix), which is not supported"
                }
                _ => "",
            };
            self.0.push(format!("the {name} reads {input} channels where the latents have {latents}{what}"));
        } else if sizes.out_channels != latents {
            let output = sizes.out_channels;
            self.0.push(format!("the {name} writes {output} channels where the latents have {latents}"));
        }
        if let Some(width) = sizes.context_width.filter(|width| *width != text) {
            self.0.push(format!(
                "the text encoder's features are {text} wide, the {name}'s cross attention takes {width}"
            ));
        }
    }

    /// Checks the channels of a network on pixels.
    pub(crate) fn pixel_unet(&mut self, name: &str, sizes: Sizes) {
        let (input, output) = (sizes.in_channels, sizes.out_channels);
        if input != output {
            self.0.push(format!("the {name} reads {input} channels and writes {output}"));
        } else if input != COLOURS && input != 1 {
            self.0.push(format!("the {name} draws {input} channels; pictures have 3, or 1 in grey"));
        }
    }
}
