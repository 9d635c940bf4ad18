use image::RgbImage;

use crate::Error;

/// A picture as the bytes of a PNG file, with texts by keyword (international text chunks), if any: such as
/// `parameters` and what [`Pipeline::describe`](crate::Pipeline::describe) says.
///
/// # Errors
///
/// [`Error::Encode`] when the encoder fails, for one when a keyword is no PNG keyword (1 to 79
/// Latin-1 characters).
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
