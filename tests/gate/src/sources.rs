//! Every Rust file of the workspace, measured.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    failure::Failure,
    tokens::{Elsewhere, Measure},
    workspace::Workspace,
};

/// A Rust file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the root.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) measure: Measure,
    /// Only tests see it: it is in a folder of tests or benches, or declared for tests only.
    pub(crate) for_tests: bool,
}

/// All of them, sorted by path. A module that is declared for tests only has no lines of code.
pub(crate) fn all(workspace: &Workspace) -> Result<Vec<Source>, Failure> {
    let mut paths = Vec::new();
    collect(&workspace.root, &mut paths)?;
    paths.sort();
    let mut sources = Vec::with_capacity(paths.len());
    for path in paths {
        let text = workspace.text(&path)?;
        let measure =
            Measure::of(&text).map_err(|error| Failure::Tokens { path: path.clone(), reason: error.to_string() })?;
        let path = path.strip_prefix(&workspace.root).unwrap_or(&path).to_path_buf();
        let for_tests = measure.all_tests || path.iter().any(|part| part == "tests" || part == "benches");
        sources.push(Source { path, text, measure, for_tests });
    }
    for module in sources.iter().flat_map(test_modules).collect::<Vec<_>>() {
        let of_module = |path: &Path| path == module.with_extension("rs") || path.starts_with(&module);
        for source in sources.iter_mut().filter(|source| of_module(&source.path)) {
            source.measure.code = 0;
            source.for_tests = true;
        }
    }
    Ok(sources)
}

/// The folders of the modules that a file declares for tests only; a module in one file has that folder's name.
fn test_modules(source: &Source) -> Vec<PathBuf> {
    let root = ["lib", "main", "mod"].iter().any(|stem| source.path.file_stem().is_some_and(|found| found == *stem));
    let beside = source.path.parent().unwrap_or(Path::new(""));
    let folder = if root { beside.into() } else { source.path.with_extension("") };
    let place = |module: &Elsewhere| match module {
        Elsewhere::Named(name) => folder.join(name),
        Elsewhere::At(path) => beside.join(path).with_extension(""),
    };
    source.measure.test_modules.iter().map(place).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let unreadable = |source| Failure::File { path: folder.into(), source };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.') || name == "target";
        if entry.file_type().map_err(unreadable)?.is_dir() {
            if !hidden {
                collect(&path, paths)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(path: &str, text: &str) -> Vec<PathBuf> {
        let measure = Measure::of(text).expect("Rust");
        test_modules(&Source { path: path.into(), text: text.into(), measure, for_tests: false })
    }

    #[test]
    fn a_test_module_is_found_where_rust_looks_for_it() {
        let named = "#[cfg(test)]\nmod cases;";
        assert_eq!(modules("a/src/lib.rs", named), [Path::new("a/src/cases")]);
        assert_eq!(modules("a/src/ring/mod.rs", named), [Path::new("a/src/ring/cases")]);
        assert_eq!(modules("a/src/ring.rs", named), [Path::new("a/src/ring/cases")]);
        let said = "#[cfg(all(test, loom))]\n#[path = \"check.rs\"]\nmod cases;";
        assert_eq!(modules("a/src/ring.rs", said), [Path::new("a/src/check")]);
    }
}
