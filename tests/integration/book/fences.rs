//! Code in a page of Markdown. The program's own tests use this file too.

/// A fenced block of code.
pub(crate) struct Block {
    /// The word behind the fence.
    pub(crate) language: String,
    /// Its lines, joined by line feeds.
    pub(crate) text: String,
    /// The number of its first line in the page.
    pub(crate) line: usize,
}

/// The fenced blocks of a page, in order.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => found.push(block),
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), text: String::new(), line: number + 2 });
            }
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block of code is not closed");
    found
}

/// What a block of shell commands needs beyond this repository, by its first line: `# needs: a model`.
pub(crate) fn needs(block: &Block) -> Option<&str> {
    block.text.lines().next()?.strip_prefix("# needs: ")
}

/// The commands of a shell block, continued lines joined, without comments and empty lines.
pub(crate) fn commands(block: &Block) -> Vec<String> {
    let joined = block.text.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.trim().to_owned());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// The arguments of the program in a command, by the rules of a shell; `None` for a command of another program. What
/// stands before `dmd` (variables, a launcher) and behind it (a pipe, a redirection, a comment) is left out.
pub(crate) fn arguments(command: &str) -> Option<Vec<String>> {
    let words = shlex::split(command).unwrap_or_else(|| panic!("a shell cannot read: {command}"));
    let is_run = |words: &[String]| words.starts_with(&["cargo".to_owned(), "run".to_owned()]);
    let start = match words.iter().position(|word| word == "dmd") {
        Some(place) if words[..place].iter().all(|word| !is_path_argument(word)) => place + 1,
        _ if is_run(&words) && !words.iter().any(|word| word == "--example" || word == "-p") => {
            words.iter().position(|word| word == "--")? + 1
        }
        _ => return None,
    };
    let arguments = words[start..].iter().take_while(|word| !["|", ">", "&&", ";"].contains(&word.as_str()));
    Some(arguments.cloned().collect())
}

/// Words after which `dmd` is a name and no program, as in `cargo build -p dmd`.
fn is_path_argument(word: &str) -> bool {
    ["-p", "cd", "clippy", "build", "test", "bench"].contains(&word)
}
