//! How the dataplane says no: which object, which field, why.
use prost::Message as _;
use tonic::{Code, Status};

use crate::v1::{ApplyError, Kind, Reason};

/// The field of a refusal because a tap's network namespace is none or cannot be opened: whoever asked for the tap
/// named the namespace, and hears so in words of its own.
pub const NETNS_PATH: &str = "tap.netns_path";

/// Why an Apply was refused. Travels in the details of the gRPC status as an [`ApplyError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {text}", self.whence())]
pub struct Refusal {
    /// The kind of the object that was refused; unspecified when the request as a whole was.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// The path of the field inside the object, such as `tap.mtu`; empty when the object as a whole was refused.
    pub field: String,
    /// What is wrong.
    pub reason: Reason,
    /// What is wrong, for people: names values and limits.
    pub text: String,
}

impl Refusal {
    /// Refuses the object of `kind` called `id`, because of `field` (empty: as a whole).
    pub fn new(
        kind: Kind,
        id: impl Into<String>,
        field: impl Into<String>,
        reason: Reason,
        text: impl Into<String>,
    ) -> Self {
        Refusal { kind, id: id.into(), field: field.into(), reason, text: text.into() }
    }

    /// Trying the same again later may work.
    pub fn may_pass(&self) -> bool {
        matches!(self.reason, Reason::NoRoom | Reason::System)
    }

    /// The refusal that `status` carries, if it does.
    pub fn of(status: &Status) -> Option<Self> {
        if status.details().is_empty() {
            return None;
        }
        let error = ApplyError::decode(status.details()).ok()?;
        let (kind, reason) = (error.kind(), error.reason());
        Some(Refusal { kind, id: error.id, field: error.field, reason, text: error.text })
    }

    fn whence(&self) -> String {
        let mut words = self.kind.word().to_owned();
        if !self.id.is_empty() {
            words.push_str(&format!(" \"{}\"", self.id));
        }
        if !self.field.is_empty() {
            words.push_str(&format!(", field {}", self.field));
        }
        words
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.reason {
            Reason::Unspecified | Reason::Invalid | Reason::Missing | Reason::Unknown | Reason::Conflict => {
                Code::InvalidArgument
            }
            Reason::NoRoom => Code::ResourceExhausted,
            Reason::Unsupported | Reason::System => Code::FailedPrecondition,
            Reason::Generation => Code::Aborted,
        };
        let text = refusal.to_string();
        let Refusal { kind, id, field, reason, text: details } = refusal;
        let error = ApplyError { kind: kind.into(), id, field, reason: reason.into(), text: details };
        Status::with_details(code, text, error.encode_to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_its_status() {
        let refusal = Refusal::new(Kind::Port, "pod-1", "tap.mtu", Reason::Invalid, "70000 is more than 65535");
        let status = Status::from(refusal.clone());
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "port \"pod-1\", field tap.mtu: 70000 is more than 65535");
        assert_eq!(Refusal::of(&status), Some(refusal));
        assert_eq!(Refusal::of(&Status::internal("no details")), None);
    }

    #[test]
    fn codes_tell_what_may_pass_from_what_will_not() {
        let of = |reason| Refusal::new(Kind::Unspecified, "", "", reason, "x");
        assert!(of(Reason::NoRoom).may_pass() && of(Reason::System).may_pass() && !of(Reason::Invalid).may_pass());
        assert_eq!(Status::from(of(Reason::Generation)).code(), Code::Aborted);
        assert_eq!(of(Reason::Invalid).to_string(), "object: x");
    }
}
