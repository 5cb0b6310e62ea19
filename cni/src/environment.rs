//! What the runtime says in the environment.
use std::{collections::BTreeMap, ffi::OsString};

use proto::attach::code;

use crate::fault::Fault;

/// The six verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// The variables of CNI, checked for the verb that needs them.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) command: Command,
    pub(crate) container: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) args: BTreeMap<String, String>,
    /// The runtime's trace (W3C trace context), to find this call in it.
    pub(crate) trace: String,
}

impl Environment {
    /// Reads and checks the variables; none when no verb is asked.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, Fault> {
        let text = |name: &str| match variable(name).unwrap_or_default().into_string() {
            Ok(text) => Ok(text),
            Err(_) => Err(bad(&format!("{name} is not UTF-8"))),
        };
        let command = match text("CNI_COMMAND")?.as_str() {
            "" => return Ok(None),
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            other => return Err(bad(&format!("CNI_COMMAND {other:?} is not a verb"))),
        };
        let missing: Vec<_> =
            required(command).iter().filter(|name| variable(name).is_none_or(|v| v.is_empty())).copied().collect();
        if !missing.is_empty() {
            return Err(bad(&format!("missing in the environment: {}", missing.join(", "))));
        }
        let environment = Environment {
            command,
            container: text("CNI_CONTAINERID")?,
            netns: text("CNI_NETNS")?,
            ifname: text("CNI_IFNAME")?,
            args: arguments(&text("CNI_ARGS")?)?,
            trace: text("TRACEPARENT")?,
        };
        environment.check()?;
        Ok(Some(environment))
    }

    fn check(&self) -> Result<(), Fault> {
        if !required(self.command).contains(&"CNI_CONTAINERID") {
            return Ok(());
        }
        let container = self.container.as_bytes();
        let after = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);
        if !container.first().is_some_and(u8::is_ascii_alphanumeric) || !container.iter().all(after) {
            return Err(bad(&format!("CNI_CONTAINERID {:?} is not a container id", self.container)));
        }
        let name = self.ifname.as_str();
        let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace();
        // The kernel's settings for all interfaces, and for those to come, have these names.
        let taken = matches!(name, "." | ".." | "all" | "default");
        if name.len() > 15 || taken || name.contains(forbidden) {
            return Err(bad(&format!("CNI_IFNAME {name:?} is not an interface name")));
        }
        Ok(())
    }
}

fn required(command: Command) -> &'static [&'static str] {
    match command {
        Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
        Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
        Command::Gc => &["CNI_PATH"],
        Command::Status | Command::Version => &[],
    }
}

/// `K=V;K=V`. Keys that are not ours are the other plugins' or the runtime's.
fn arguments(text: &str) -> Result<BTreeMap<String, String>, Fault> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(bad(&format!("CNI_ARGS: {pair:?} is not KEY=VALUE"))),
        })
        .collect()
}

fn bad(message: &str) -> Fault {
    Fault::new(code::BAD_ENVIRONMENT, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Environment>, Fault> {
        Environment::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn what_is_missing_is_named() {
        let fault = read(&[("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1")]).unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (4, "missing in the environment: CNI_NETNS, CNI_IFNAME"));
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")]).unwrap().is_some());
        assert_eq!(read(&[("CNI_COMMAND", "add")]).unwrap_err().code, 4);
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let ask = |container, ifname| {
            let fixed = ("CNI_COMMAND", "DEL");
            read(&[fixed, ("CNI_CONTAINERID", container), ("CNI_IFNAME", ifname)]).map(|_| ()).map_err(|f| f.code)
        };
        assert_eq!(ask("a_.-1", "eth0"), Ok(()));
        for container in ["-a", ".a", "a/b", "a b", "é"] {
            assert_eq!(ask(container, "eth0"), Err(4), "{container}");
        }
        for ifname in ["0123456789abcdef", ".", "..", "all", "default", "a/b", "a:b", "a b", "a\tb"] {
            assert_eq!(ask("c", ifname), Err(4), "{ifname}");
        }
    }

    #[test]
    fn arguments_are_pairs() {
        let args = arguments("IgnoreUnknown=1;K8S_POD_NAME=web;").unwrap();
        assert_eq!(args.get("K8S_POD_NAME").map(String::as_str), Some("web"));
        assert_eq!(arguments("oops").unwrap_err().code, 4);
    }
}
