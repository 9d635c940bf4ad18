/// How a module's parameter paths become checkpoint keys: burn's own names first (`gamma` and
/// `beta` of norms become `weight` and `bias`), then each `(ours, theirs)` pair as a replacement of
/// whole path segments.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyMap {
    /// Put before every key.
    pub prefix: &'static str,
    /// Replacements, in order; each side is one or more segments joined by dots, theirs
    /// possibly none.
    pub renames: &'static [(&'static str, &'static str)],
    /// Spellings of older files, `(old, today's)`, replaced in a file's keys on reading; same form.
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
        for (old, today) in self.aliases {
            key = key.replace(&format!(".{old}."), &format!(".{today}."));
        }
        key.trim_matches('.').to_owned()
    }
}
