//! Pictures in a terminal: by the protocols of kitty, iTerm2 and sixel, or as coloured half blocks, which every terminal with
//! colours can show.

use std::io::{IsTerminal, stdout};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use dmd_infer::encode_png;
use icy_sixel::SixelImage;
use image::RgbImage;
use image::imageops::{FilterType, resize};

use crate::console::bytes;
use crate::picture_file::enlarged;

/// How a terminal shows a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Show {
    /// The best way that this terminal is known to have
    Auto,
    /// kitty's graphics protocol (kitty, Ghostty, Konsole)
    Kitty,
    /// iTerm2's inline images (iTerm2, WezTerm, mintty)
    Iterm,
    /// Sixel graphics (foot, mlterm, Windows Terminal)
    Sixel,
    /// Half blocks in 24-bit colours
    Blocks,
}

/// Most columns of half blocks.
const COLUMNS: u32 = 64;
/// Most bytes of one piece of kitty's protocol.
const PIECE: usize = 4096;

impl Show {
    /// The way itself in place of [`Self::Auto`].
    ///
    /// # Errors
    ///
    /// When the way is to be found out and standard output is no terminal.
    pub(crate) fn resolved(self) -> anyhow::Result<Self> {
        if self != Self::Auto {
            return Ok(self);
        }
        ensure!(
            stdout().is_terminal(),
            "--show needs a terminal; name its way, e.g. --show=kitty, to write elsewhere"
        );
        Ok(of_terminal(&|name| std::env::var(name).ok()))
    }

    /// Prints a picture and ends its line.
    ///
    /// # Errors
    ///
    /// When the picture cannot be encoded.
    pub(crate) fn print(self, picture: &RgbImage) -> anyhow::Result<()> {
        bytes(self.encoded(picture)?.as_bytes());
        Ok(())
    }

    fn encoded(self, picture: &RgbImage) -> anyhow::Result<String> {
        let shown = enlarged(picture);
        Ok(match self {
            Self::Auto | Self::Blocks => blocks(picture),
            Self::Kitty => kitty(&encode_png(&shown, &[])?),
            Self::Iterm => {
                let png = encode_png(&shown, &[])?;
                format!("\x1b]1337;File=inline=1;size={}:{}\x07\n", png.len(), STANDARD.encode(png))
            }
            Self::Sixel => {
                let opaque: Vec<u8> =
                    shown.pixels().flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 255]).collect();
                let (width, height) = shown.dimensions();
                let sixels = SixelImage::try_from_rgba(opaque, width as usize, height as usize);
                sixels.and_then(|sixels| sixels.encode()).context("a picture as sixels")? + "\n"
            }
        })
    }
}

/// What a terminal says of itself in its variables.
fn of_terminal(variable: &dyn Fn(&str) -> Option<String>) -> Show {
    let has = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let of = |name: &str| variable(name).unwrap_or_default().to_lowercase();
    let (term, program, other) = (of("TERM"), of("TERM_PROGRAM"), of("LC_TERMINAL"));
    let is = |names: &[&str], value: &str| names.iter().any(|name| value.contains(name));
    if has("TMUX") || term.starts_with("screen") {
        // They pass no pictures on unless they are told to.
        Show::Blocks
    } else if has("KITTY_WINDOW_ID")
        || has("KONSOLE_VERSION")
        || is(&["kitty", "ghostty"], &format!("{term} {program}"))
    {
        Show::Kitty
    } else if is(&["iterm", "wezterm", "mintty"], &format!("{program} {other}")) {
        Show::Iterm
    } else if has("WT_SESSION") || is(&["foot", "mlterm", "sixel"], &term) {
        Show::Sixel
    } else {
        Show::Blocks
    }
}

/// A PNG in kitty's protocol, in pieces; all but the last say that more follow.
fn kitty(png: &[u8]) -> String {
    let text = STANDARD.encode(png);
    let mut rest = text.as_str();
    let mut said = String::new();
    let mut head = "a=T,f=100,";
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(PIECE));
        let more = u8::from(!after.is_empty());
        said.push_str(&format!("\x1b_G{head}m={more};{piece}\x1b\\"));
        (rest, head) = (after, "");
    }
    said.push('\n');
    said
}

/// Two pixels per character: the upper one as its colour, the lower one as its background.
fn blocks(picture: &RgbImage) -> String {
    let (width, height) = picture.dimensions();
    let columns = width.clamp(1, COLUMNS);
    let rows = (height * columns).div_ceil(2 * width.max(1)).max(1);
    let small = resize(picture, columns, 2 * rows, FilterType::Triangle);
    let mut said = String::new();
    for row in 0..rows {
        for column in 0..columns {
            let ([r, g, b], [s, t, u]) = (small[(column, 2 * row)].0, small[(column, 2 * row + 1)].0);
            said.push_str(&format!("\x1b[38;2;{r};{g};{b};48;2;{s};{t};{u}m▀"));
        }
        said.push_str("\x1b[0m\n");
    }
    said
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn picture() -> RgbImage {
        RgbImage::from_fn(100, 60, |x, y| image::Rgb([(x * 2) as u8, (y * 4) as u8, (x * y) as u8]))
    }

    #[test]
    fn terminals() {
        let of = |variables: &[(&str, &str)]| {
            let variables: Vec<(String, String)> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            of_terminal(&move |name| {
                variables.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
            })
        };
        assert_eq!(of(&[("TERM", "xterm-kitty")]), Show::Kitty);
        assert_eq!(of(&[("TERM", "xterm-256color"), ("KONSOLE_VERSION", "230804")]), Show::Kitty);
        assert_eq!(of(&[("TERM_PROGRAM", "iTerm.app")]), Show::Iterm);
        assert_eq!(of(&[("TERM", "foot-extra")]), Show::Sixel);
        assert_eq!(of(&[("TERM", "xterm-256color")]), Show::Blocks);
        assert_eq!(of(&[("TERM", "screen"), ("KITTY_WINDOW_ID", "1")]), Show::Blocks);
    }

    /// The pieces of kitty's protocol are the PNG of the picture.
    #[test]
    fn kitty_and_iterm_carry_the_picture() {
        let expected = enlarged(&picture());
        let said = Show::Kitty.encoded(&picture()).unwrap();
        let pieces: Vec<(&str, &str)> = said
            .trim_end()
            .split_terminator("\x1b\\")
            .map(|piece| piece.strip_prefix("\x1b_G").unwrap().split_once(';').unwrap())
            .collect();
        assert!(pieces.len() > 1 && pieces.iter().all(|(_, piece)| piece.len() <= PIECE));
        let (last, first) = pieces.split_last().unwrap();
        assert!(first.iter().all(|(head, _)| head.ends_with("m=1")) && last.0.ends_with("m=0"));
        assert!(pieces[0].0.starts_with("a=T,f=100"));
        let png = STANDARD.decode(pieces.iter().map(|(_, piece)| *piece).collect::<String>()).unwrap();
        assert!(image::load_from_memory(&png).unwrap().to_rgb8() == expected);

        let said = Show::Iterm.encoded(&picture()).unwrap();
        let png =
            STANDARD.decode(said.trim_end().trim_end_matches('\x07').split_once(':').unwrap().1).unwrap();
        assert!(image::load_from_memory(&png).unwrap().to_rgb8() == expected);
    }

    #[test]
    fn sixels_are_of_the_picture() {
        let said = Show::Sixel.encoded(&picture()).unwrap();
        let found = icy_sixel::SixelImage::decode(said.trim_end().as_bytes()).unwrap();
        let expected = enlarged(&picture());
        let (width, height) = expected.dimensions();
        assert_eq!(found.dimensions(), (width as usize, height as usize));
        // 256 colours, dithered: the means of small squares are right.
        let pixels: Vec<u8> =
            found.pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        let small = |picture: &RgbImage| resize(picture, width / 10, height / 10, FilterType::Triangle);
        let found = small(&RgbImage::from_raw(width, height, pixels).unwrap());
        let expected = small(&expected);
        let apart = found.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b)));
        assert!(apart.sum::<u64>() < 4 * found.as_raw().len() as u64);
    }

    #[test]
    fn blocks_have_two_pixels_each() {
        let picture = RgbImage::from_fn(2, 2, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let line = "\x1b[38;2;0;0;9;48;2;0;1;9m▀\x1b[38;2;1;0;9;48;2;1;1;9m▀\x1b[0m\n";
        assert_eq!(blocks(&picture), line);
        assert_eq!(blocks(&RgbImage::new(512, 256)).lines().count(), 16);
    }
}
