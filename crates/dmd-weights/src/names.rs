/// How a module's parameter paths become checkpoint keys. First burn's names are replaced (`gamma` and `beta` of norms
/// become `weight` and `bias`). Then each `(ours, theirs)` pair replaces whole path segments.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyMap {
    /// Prefix of every key.
    pub prefix: &'static str,
    /// Replacements, in the order in which they are applied. Each side is one or more segments joined by dots. Theirs
    /// may also be empty.
    pub renames: &'static [(&'static str, &'static str)],
    /// Other spellings in files, `(theirs, today's)`, with sides as in [`Self::renames`]. Reading a file replaces them
    /// in its keys. An older spelling of a layer takes a pair or two; another naming of all keys takes a longer list.
    pub aliases: &'static [(&'static str, &'static str)],
}

impl KeyMap {
    /// The checkpoint key of a parameter path.
    pub fn key(&self, path: &str) -> String {
        let mut key = format!(".{path}.");
        for (ours, theirs) in self.renames {
            let theirs = if theirs.is_empty() { ".".to_owned() } else { format!(".{theirs}.") };
            key = key.replace(&format!(".{ours}."), &theirs);
        }
        format!("{}{}", self.prefix, key.trim_matches('.'))
    }

    /// A file's key in today's spelling.
    pub fn canonical(&self, key: &str) -> String {
        let mut key = format!(".{key}.");
        for (theirs, today) in self.aliases {
            key = key.replace(&format!(".{theirs}."), &format!(".{today}."));
        }
        key.trim_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in the first published checkpoints of Stable Diffusion can be read with a list of aliases.
    #[test]
    fn another_naming_is_a_list_of_aliases() {
        let keys = KeyMap {
            aliases: &[
                ("input_blocks.1.0", "down_blocks.0.resnets.0"),
                ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
                ("time_embed.2", "time_embedding.linear_2"),
                ("in_layers.2", "conv1"),
                ("emb_layers.1", "time_emb_proj"),
            ],
            ..KeyMap::default()
        };
        for (theirs, today) in [
            ("input_blocks.1.0.in_layers.2.weight", "down_blocks.0.resnets.0.conv1.weight"),
            ("input_blocks.1.0.emb_layers.1.bias", "down_blocks.0.resnets.0.time_emb_proj.bias"),
            ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
            ("model.diffusion_model.time_embed.2.bias", "model.diffusion_model.time_embedding.linear_2.bias"),
            ("input_blocks.10.0.op.weight", "input_blocks.10.0.op.weight"),
        ] {
            assert_eq!(keys.canonical(theirs), today);
        }
    }
}
