use image::RgbImage;

use crate::Error;

/// Encodes a picture as a PNG file. `texts` are keywords and texts, which become international text chunks. An example
/// is the keyword `parameters` with the text of [`Pipeline::describe`](crate::Pipeline::describe).
///
/// # Errors
///
/// [`Error::Encode`] when the encoder fails, e.g. because a keyword is not a PNG keyword (1 to 79 Latin-1 characters).
pub fn encode_png(picture: &RgbImage, texts: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
    let failed = |error: png::EncodingError| Error::Encode { reason: error.to_string() };
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in texts {
        encoder.add_itxt_chunk((*keyword).to_owned(), (*text).to_owned()).map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(picture.as_raw()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}
