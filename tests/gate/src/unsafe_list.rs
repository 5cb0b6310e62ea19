//! Which files hold unsafe, and how much: the list is checked in and only a reviewed change moves it.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use crate::{
    failure::Failure,
    sources::{self, Source},
    workspace::Workspace,
};

const LIST: &str = "tests/gate/unsafe.txt";

/// Product files that may hold unsafe. Each has one job that safe Rust cannot do.
const ROOMS: [&str; 7] = [
    "hugepages/src/map.rs",
    "dataplane/engine/src/packet.rs",
    "dataplane/engine/src/pool.rs",
    "dataplane/engine/src/ring.rs",
    "dataplane/engine/src/simd.rs",
    "dataplane/engine/src/snapshot.rs",
    "dataplane/engine/src/fetch.rs",
];

/// Counts of the keyword by path.
type Counts = BTreeMap<String, usize>;

pub(crate) fn check(workspace: &Workspace) -> Result<String, Failure> {
    let found: Vec<Source> = sources::all(workspace)?.into_iter().filter(|source| source.measure.unsafes > 0).collect();
    let counts: Counts = found.iter().map(|source| (said(&source.path), source.measure.unsafes)).collect();
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        write(workspace, &counts)?;
    }
    let mut findings = difference(&read(&workspace.text(Path::new(LIST))?), &counts);
    for Source { path, text, for_tests, .. } in &found {
        if !for_tests && !is_room(path) {
            findings.push(format!("{}: holds unsafe, and is none of the files that may", path.display()));
        }
        if !says_why(text) {
            findings.push(format!("{}: holds unsafe, and does not open with `// UNSAFETY:`", path.display()));
        }
    }
    let remark = format!("{} in {} files", counts.values().sum::<usize>(), counts.len());
    Failure::unless_empty(findings, remark)
}

fn is_room(path: &Path) -> bool {
    let driver = path.starts_with("dataplane/ports/src") && path.ends_with("sys.rs") && path.components().count() == 5;
    ROOMS.iter().any(|room| path == Path::new(room)) || driver
}

/// Whether the comments that open the file have the argument.
fn says_why(text: &str) -> bool {
    text.lines()
        .take_while(|line| line.is_empty() || line.starts_with("//"))
        .any(|line| line.strip_prefix("// UNSAFETY:").is_some_and(|reason| !reason.trim().is_empty()))
}

/// A smaller count fails too, lest it leave room for the next one.
fn difference(listed: &Counts, counts: &Counts) -> Vec<String> {
    let paths = listed.keys().chain(counts.keys().filter(|path| !listed.contains_key(*path)));
    let differs = |path: &String| {
        let (was, is) = (listed.get(path).unwrap_or(&0), counts.get(path).unwrap_or(&0));
        (was != is).then(|| format!("{path}: {is} unsafe, listed {was} (UPDATE=1 cargo gate unsafe, and argue it)"))
    };
    paths.filter_map(differs).collect()
}

fn read(list: &str) -> Counts {
    let entry = |line: &str| {
        let (count, path) = line.split_once(' ')?;
        Some((path.trim().to_owned(), count.parse().ok()?))
    };
    list.lines().filter_map(entry).collect()
}

fn write(workspace: &Workspace, counts: &Counts) -> Result<(), Failure> {
    let mut list = String::from("# Uses of the keyword `unsafe` by file. Written by UPDATE=1 cargo gate unsafe.\n");
    for (path, count) in counts {
        // Writing to a String does not fail.
        _ = writeln!(list, "{count} {path}");
    }
    let path = workspace.root.join(LIST);
    fs::write(&path, list).map_err(|source| Failure::File { path, source })
}

fn said(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rooms_may_hold_it() {
        for path in ["hugepages/src/map.rs", "dataplane/ports/src/tap/sys.rs"] {
            assert!(is_room(Path::new(path)), "{path}");
        }
        for path in ["dataplane/nodes/src/lib.rs", "dataplane/ports/src/sys.rs", "dataplane/wire/src/sys.rs"] {
            assert!(!is_room(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn growth_a_new_file_and_a_stale_line_differ() {
        let listed = read("# said\n2 a.rs\n1 b.rs\n3 same.rs\n");
        let counts = read("3 a.rs\n1 new.rs\n3 same.rs\n");
        let found = difference(&listed, &counts);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(difference(&counts, &counts).is_empty());
    }

    #[test]
    fn the_reason_stands_at_the_top_and_is_not_empty() {
        assert!(says_why("//! Doc.\n// UNSAFETY: mmap returns a pointer.\n\nfn f() {}\n"));
        assert!(!says_why("//! Doc.\nfn f() {}\n// UNSAFETY: late.\n"));
        assert!(!says_why("// UNSAFETY:\n"));
    }
}
