/// Whether a path matches a pattern with the rules of Python's `fnmatch`: `*` matches any text, including slashes, and
/// `?` matches any character. A pattern that ends with a slash matches everything below that folder.
pub(crate) fn fits(path: &str, pattern: &str) -> bool {
    let path: Vec<char> = path.chars().collect();
    let mut pattern: Vec<char> = pattern.chars().collect();
    if pattern.last() == Some(&'/') {
        pattern.push('*');
    }
    let (mut at, mut of) = (0, 0);
    // Position of the last star in the pattern, and the position in the path up to which it matches.
    let mut star: Option<(usize, usize)> = None;
    while at < path.len() {
        match pattern.get(of) {
            Some('*') => {
                star = Some((of, at));
                of += 1;
            }
            Some(&c) if c == '?' || c == path[at] => {
                at += 1;
                of += 1;
            }
            _ => match star {
                Some((position, taken)) => {
                    star = Some((position, taken + 1));
                    of = position + 1;
                    at = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_python() {
        for (path, pattern) in [
            ("unet/config.json", "*.json"),
            ("unet/config.json", "*/config.json"),
            ("unet/config.json", "unet/"),
            ("unet/config.json", "unet/*"),
            ("a", "?"),
            ("", "*"),
            ("aXbXc", "*X*X*"),
            ("model.fp16.safetensors", "*.fp16.*"),
            ("äö", "?ö"),
        ] {
            assert!(fits(path, pattern), "{path} {pattern}");
        }
        for (path, pattern) in [
            ("config.json", "*/config.json"),
            ("unet/config.json", "config.json"),
            ("a", ""),
            ("ab", "?"),
            ("aXb", "*Y*"),
        ] {
            assert!(!fits(path, pattern), "{path} {pattern}");
        }
    }
}
