//! The conditions of pictures, and the conditions that guidance points away from.

use std::ops::Range;

use dmd_model::{ConditionOf, Conditioner, Family, SizeConditions};

use super::Drawing;
use crate::Error;
use crate::checks::{finite_condition, given_condition};
use crate::request::TeacherSettings;

impl<F: Family> Drawing<'_, F> {
    /// The condition of the pictures in `rows`.
    pub(super) fn condition(&self, rows: Range<usize>) -> Result<ConditionOf<F>, Error> {
        let conditioner = &self.model.conditioner;
        if let Some(embeddings) = &self.request.embeddings {
            let features = embeddings.prompt.rows(rows.start, rows.len());
            return given_condition::<F>(self.sized(conditioner.features(features)?));
        }
        let prompts: Vec<&str> = self.request.prompts[rows].iter().map(String::as_str).collect();
        let condition = conditioner.condition_skipping(&prompts, self.request.clip_skip)?;
        finite_condition::<F>(self.sized(condition), "text encoder")
    }

    /// The same condition with the sizes that the request asks for.
    pub(super) fn sized(&self, condition: ConditionOf<F>) -> ConditionOf<F> {
        let factor = self.model.codec.factor();
        let picture = (self.size.0 * factor, self.size.1 * factor);
        let sizes = self.request.sizes.unwrap_or(SizeConditions::of_picture(picture));
        self.model.conditioner.sized(condition, &sizes)
    }

    /// The condition of guidance's unconditional branch. As in diffusers, no layer is skipped for it.
    pub(super) fn negative(
        &self,
        rows: Range<usize>,
        settings: &TeacherSettings,
    ) -> Result<ConditionOf<F>, Error> {
        let conditioner = &self.model.conditioner;
        if let Some(negative) = self.request.embeddings.as_ref().and_then(|e| e.negative.clone()) {
            let own = negative.words.dims()[0] > 1;
            let negative = if own { negative.rows(rows.start, rows.len()) } else { negative };
            return given_condition::<F>(self.sized(conditioner.features(negative)?));
        }
        let condition = match &settings.negative_prompt {
            Some(prompt) => conditioner.condition(&[prompt])?,
            None => conditioner.unconditional()?,
        };
        finite_condition::<F>(self.sized(condition), "text encoder")
    }
}
