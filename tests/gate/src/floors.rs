//! Which crate may see which: any arrow that is not drawn here fails.

use crate::{
    failure::Failure,
    workspace::{Dependency, Kind, Package, Workspace},
};

/// Each product crate, and all that it may depend on among ours.
const FLOORS: [(&str, &[&str]); 11] = [
    ("wire", &[]),
    ("hugepages", &[]),
    ("proto", &[]),
    ("engine", &["hugepages"]),
    ("tables", &["wire", "engine", "hugepages"]),
    ("nodes", &["wire", "engine", "tables"]),
    ("ports", &["engine", "wire", "hugepages"]),
    ("millrace-dataplane", &["wire", "engine", "tables", "nodes", "ports", "hugepages", "proto"]),
    ("millrace-control", &["proto"]),
    ("millrace-cni", &["proto"]),
    // The naive model judges the product, so it shares nothing with it but what packets look like.
    ("model", &["wire"]),
];

/// What the tests of a product crate may use besides: the rig and its judge, and memory to run in.
const FOR_TESTS: [&str; 3] = ["rig", "model", "hugepages"];

/// Folders on the top floor: they may see everything below.
const TOP: [&str; 2] = ["tests", "benches"];

pub(crate) fn check(workspace: &Workspace) -> Result<String, Failure> {
    let ours: Vec<&str> = workspace.packages.iter().map(|package| package.name.as_str()).collect();
    let findings: Vec<String> = workspace
        .packages
        .iter()
        .flat_map(|package| {
            let top = TOP.iter().any(|folder| workspace.folder(package).starts_with(folder));
            wrong_arrows(package, &ours, top)
        })
        .collect();
    Failure::unless_empty(findings, format!("{} crates", ours.len()))
}

/// The arrows of one package that are not allowed; `top` is for packages in `tests/` or `benches/`.
fn wrong_arrows(package: &Package, ours: &[&str], top: bool) -> Vec<String> {
    let allowed = match FLOORS.iter().find(|(name, _)| *name == package.name) {
        Some((_, allowed)) => *allowed,
        None if top => return Vec::new(),
        None => return vec![format!("{} has no floor in tests/gate/src/floors.rs", package.name)],
    };
    let wrong = |dependency: &&Dependency| {
        let name = dependency.name.as_str();
        let tested = dependency.kind == Some(Kind::Dev) && (FOR_TESTS.contains(&name) || name == package.name);
        ours.contains(&name) && !allowed.contains(&name) && !tested
    };
    package.dependencies.iter().filter(wrong).map(|found| format!("{} -> {}", package.name, found.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [&str; 5] = ["wire", "engine", "rig", "model", "odd"];

    fn package(name: &str, dependencies: &[(&str, Option<Kind>)]) -> Package {
        let dependency = |&(name, kind): &(&str, Option<Kind>)| Dependency { name: name.into(), kind };
        Package {
            name: name.into(),
            manifest_path: "Cargo.toml".into(),
            dependencies: dependencies.iter().map(dependency).collect(),
        }
    }

    #[test]
    fn the_engine_must_not_see_wire_in_any_kind() {
        for kind in [None, Some(Kind::Dev), Some(Kind::Build)] {
            assert_eq!(wrong_arrows(&package("engine", &[("wire", kind)]), &OURS, false), ["engine -> wire"]);
        }
    }

    #[test]
    fn tests_of_the_product_may_use_rig_and_model_and_its_code_may_not() {
        assert!(wrong_arrows(&package("wire", &[("model", Some(Kind::Dev))]), &OURS, false).is_empty());
        assert_eq!(wrong_arrows(&package("wire", &[("rig", None)]), &OURS, false), ["wire -> rig"]);
    }

    #[test]
    fn the_model_sees_wire_only_though_it_lives_in_tests() {
        let model = package("model", &[("wire", None), ("engine", None)]);
        assert_eq!(wrong_arrows(&model, &OURS, true), ["model -> engine"]);
    }

    #[test]
    fn crates_of_others_are_not_ours_to_judge() {
        assert!(wrong_arrows(&package("wire", &[("serde", None)]), &OURS, false).is_empty());
    }

    #[test]
    fn a_new_crate_needs_a_floor_unless_it_is_a_test() {
        assert_eq!(wrong_arrows(&package("odd", &[]), &OURS, false).len(), 1);
        assert!(wrong_arrows(&package("odd", &[("engine", None)]), &OURS, true).is_empty());
    }
}
