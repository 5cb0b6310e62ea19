//! House sizes: tripwires, each with a written reason where it is passed.

use std::{collections::BTreeMap, path::Path};

use crate::{
    failure::Failure,
    sources::{self, Source},
    workspace::Workspace,
};

const EXCEPTIONS: &str = "tests/gate/sizes.txt";
const FILE: usize = 500;
/// Characters of a line that is a comment, which rustfmt leaves as it is.
const LINE: usize = 120;
const CRATE: usize = 10_000;
/// The engine is what people read first: it stays small enough for one sitting.
const ENGINE: usize = 2_000;

/// Allowed lines by path, or by crate name.
type Exceptions = BTreeMap<String, usize>;

/// Lines of code by path, or by crate name.
type Sizes = Vec<(String, usize)>;

pub(crate) fn check(workspace: &Workspace) -> Result<String, Failure> {
    let (mut exceptions, mut findings) = exceptions(&workspace.text(Path::new(EXCEPTIONS))?);
    let sources = sources::all(workspace)?;
    let mut files: Sizes =
        sources.iter().map(|source| (source.path.display().to_string(), source.measure.code)).collect();
    let mut crates = crates(workspace, &sources);
    findings.extend(too_large(&files, &mut exceptions, |_| FILE));
    findings.extend(too_large(&crates, &mut exceptions, |name| if name == "engine" { ENGINE } else { CRATE }));
    let stale = exceptions.keys().map(|name| format!("{EXCEPTIONS}: {name} needs no exception"));
    findings.extend(stale);
    findings.extend(sources.iter().flat_map(|source| too_long(&source.path, &source.text)));
    Failure::unless_empty(findings, format!("{}; {}", top(&mut crates, 20), top(&mut files, 3)))
}

/// Code of each member, in its `src/`.
fn crates(workspace: &Workspace, sources: &[Source]) -> Sizes {
    let size = |folder: &Path| {
        let inside = sources.iter().filter(|source| source.path.starts_with(folder.join("src")));
        inside.map(|source| source.measure.code).sum()
    };
    workspace.packages.iter().map(|package| (package.name.clone(), size(workspace.folder(package)))).collect()
}

/// What passes its limit. Exceptions that were needed are taken away, so that what is left is stale.
fn too_large(sizes: &Sizes, exceptions: &mut Exceptions, limit: impl Fn(&str) -> usize) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, lines) in sizes.iter().filter(|(name, lines)| *lines > limit(name)) {
        let allowed = exceptions.remove(name).unwrap_or_else(|| limit(name));
        if *lines > allowed {
            findings.push(format!("{name}: {lines} lines of code, at most {allowed}"));
        }
    }
    findings
}

/// Comments longer than [`LINE`].
fn too_long(path: &Path, text: &str) -> Vec<String> {
    let comments = (1..).zip(text.lines()).filter(|(_, line)| line.trim_start().starts_with("//"));
    let lengths = comments.map(|(number, line)| (number, line.chars().count()));
    let long = lengths.filter(|(_, length)| *length > LINE);
    long.map(|(number, length)| format!("{}:{number}: {length} characters, at most {LINE}", path.display())).collect()
}

/// Lines of `<path or crate> <lines> <reason>`; a line without a reason is a finding.
fn exceptions(text: &str) -> (Exceptions, Vec<String>) {
    let (mut exceptions, mut findings) = (Exceptions::new(), Vec::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        match words.as_slice() {
            [name, lines, reason] if !reason.trim().is_empty() && lines.parse::<usize>().is_ok() => {
                exceptions.insert((*name).to_owned(), lines.parse().unwrap_or_default());
            }
            _ => findings.push(format!("{EXCEPTIONS}: wanted `<path or crate> <lines> <reason>`, found `{line}`")),
        }
    }
    (exceptions, findings)
}

fn top(sizes: &mut Sizes, count: usize) -> String {
    sizes.sort_by_key(|(name, lines)| (std::cmp::Reverse(*lines), name.clone()));
    sizes.iter().take(count).map(|(name, lines)| format!("{name} {lines}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_last_good_size() {
        let sizes = vec![("a.rs".to_owned(), FILE), ("b.rs".to_owned(), FILE + 1)];
        assert_eq!(too_large(&sizes, &mut Exceptions::new(), |_| FILE).len(), 1);
    }

    #[test]
    fn an_exception_allows_its_lines_and_no_more() {
        let (mut allowed, findings) = exceptions("# said\na.rs 510 one table on one page\n");
        assert!(findings.is_empty());
        assert!(too_large(&vec![("a.rs".into(), 510)], &mut allowed, |_| FILE).is_empty());
        assert!(allowed.is_empty());
        let (mut allowed, _) = exceptions("a.rs 510 one table on one page\n");
        assert_eq!(too_large(&vec![("a.rs".into(), 511)], &mut allowed, |_| FILE).len(), 1);
    }

    #[test]
    fn an_exception_nobody_needs_stays_to_be_reported() {
        let (mut allowed, _) = exceptions("a.rs 510 one table on one page\n");
        assert!(too_large(&vec![("a.rs".into(), 400)], &mut allowed, |_| FILE).is_empty());
        assert_eq!(allowed.len(), 1);
    }

    #[test]
    fn a_line_is_as_long_as_its_characters_are_many() {
        let text = format!("// {}\n// {}\n", "é".repeat(LINE - 3), "x".repeat(LINE - 2));
        assert_eq!(too_long(Path::new("a.rs"), &text), ["a.rs:2: 121 characters, at most 120"]);
    }

    #[test]
    fn an_exception_needs_a_reason() {
        assert_eq!(exceptions("a.rs 510\nb.rs many lines\n").1.len(), 2);
    }
}
