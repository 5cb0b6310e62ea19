//! The versions of the CNI specification.
use serde_json::{Value, json};

use crate::fault::Fault;

/// A version of the CNI specification that this binary speaks, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) const NEWEST: Version = Version::V1_1_0;
    pub(crate) const ALL: [Version; 7] = [
        Version::V0_1_0,
        Version::V0_2_0,
        Version::V0_3_0,
        Version::V0_3_1,
        Version::V0_4_0,
        Version::V1_0_0,
        Version::V1_1_0,
    ];

    /// As the specification writes it; runtimes compare the exact string.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Version::V0_1_0 => "0.1.0",
            Version::V0_2_0 => "0.2.0",
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version of a configuration; one that says none is 0.1.0, as libcni has it.
    pub(crate) fn of(text: &str) -> Result<Self, Fault> {
        let text = if text.is_empty() { "0.1.0" } else { text };
        Version::ALL.into_iter().find(|v| v.text() == text).ok_or_else(|| Fault::version(text))
    }
}

/// The answer to VERSION, whatever stdin holds.
pub(crate) fn answer(input: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(input).ok();
    let asked = asked.as_ref().and_then(|config| config.get("cniVersion")?.as_str());
    let version = asked.and_then(|text| Version::of(text).ok()).unwrap_or(Version::NEWEST);
    json!({ "cniVersion": version.text(), "supportedVersions": Version::ALL.map(Version::text) })
}
