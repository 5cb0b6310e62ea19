//! Why a verb failed, in the codes of CNI.
use std::{fmt, io};

use proto::attach::{Refused, code};
use serde_json::{Value, json};

use crate::version::Version;

/// An error as CNI prints it: code, one sentence, and what to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl Fault {
    pub(crate) fn new(code: u32, message: impl Into<String>) -> Self {
        Fault { code, message: message.into(), details: String::new() }
    }

    pub(crate) fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    pub(crate) fn version(text: &str) -> Self {
        let ours: Vec<_> = Version::ALL.iter().map(|v| v.text()).collect();
        Fault::new(code::INCOMPATIBLE_VERSION, format!("cniVersion {text:?} is not supported"))
            .details(format!("supported: {}", ours.join(", ")))
    }

    pub(crate) fn unsupported(key: &str, value: &Value) -> Self {
        Fault::new(code::UNSUPPORTED_FIELD, format!("{key} with value {value} is not supported"))
    }

    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        Fault::new(code::IO, what).details(error.to_string())
    }

    pub(crate) fn json(&self, version: Version) -> Value {
        json!({ "cniVersion": version.text(), "code": self.code, "msg": self.message, "details": self.details })
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Fault { code: refused.code, message: refused.message, details: refused.details }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}
