//! The strength of PEFT's updates, which its files give in a configuration instead of in tensors.

use serde_json::{Map, Value};

/// The configuration of the updates of one part.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    alpha: Option<f64>,
    alpha_pattern: Vec<(String, f64)>,
    rank_stabilised: bool,
}

impl Settings {
    /// Reads the entries of PEFT's `LoraConfig` whose names begin with `prefix`. The error is a part of a sentence.
    pub(super) fn new(entries: &Map<String, Value>, prefix: &str) -> Result<Self, String> {
        let entry = |name: &str| entries.get(&format!("{prefix}{name}"));
        if let Some(kind) = entry("peft_type").and_then(Value::as_str).filter(|kind| *kind != "LORA") {
            return Err(format!("its configuration says {kind}; only plain LoRA is merged"));
        }
        if entry("use_dora").and_then(Value::as_bool) == Some(true) {
            return Err("its configuration says DoRA; only plain LoRA is merged".to_owned());
        }
        let pattern = entry("alpha_pattern").and_then(Value::as_object);
        let mut alpha_pattern = Vec::new();
        for (layers, alpha) in pattern.into_iter().flatten() {
            let plain = layers.trim_start_matches('^').trim_end_matches('$').replace("\\.", ".");
            let literal = plain.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_'));
            match alpha.as_f64().filter(|_| literal) {
                Some(alpha) => alpha_pattern.push((plain, alpha)),
                None => {
                    return Err(format!(
                        "its alpha_pattern {layers:?} is no plain name of layers, or its value is no number"
                    ));
                }
            }
        }
        Ok(Self {
            alpha: entry("lora_alpha").and_then(Value::as_f64),
            alpha_pattern,
            rank_stabilised: entry("use_rslora").and_then(Value::as_bool) == Some(true),
        })
    }

    /// The factor of `up · down` for a layer, or `None` where the configuration does not give one.
    pub(super) fn factor(&self, layer: &str, rank: usize) -> Option<f64> {
        let named = |pattern: &str| {
            layer.strip_suffix(pattern).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let own = self.alpha_pattern.iter().find(|(pattern, _)| named(pattern)).map(|(_, alpha)| *alpha);
        let rank = if self.rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        Some(own.or(self.alpha)? / rank)
    }
}
