//! What can be asked, and how.
use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use proto::v1::{Filter, FlowsRequest, Prefix, TraceRequest, trace_request};

use super::ask::Failure;

/// Look at a Millrace dataplane.
#[derive(Parser)]
#[command(
    name = "millrace",
    version,
    after_help = "Exit codes: 0 it worked, 1 the dataplane refused, 2 wrong arguments, 3 the dataplane cannot be reached."
)]
pub(super) struct Arguments {
    /// The dataplane's socket.
    #[arg(long, global = true, env = "MILLRACE_SOCKET", default_value = super::SOCKET)]
    pub(super) socket: PathBuf,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Aligned, for people.
    Table,
    /// For programs. A trace prints an object a line.
    Json,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// What runs, with what, and how full it is.
    Status,
    /// Where packets enter and leave.
    Ports,
    /// The flows that are known, a line for each direction.
    Flows(FlowsArguments),
    /// How many packets left each node by each arc.
    Counters(CountersArguments),
    /// The steps of packets through the graph.
    Trace(TraceArguments),
}

#[derive(Args)]
pub(super) struct FilterArguments {
    /// Source or destination: an address or a prefix.
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_parser = prefix)]
    address: Option<IpNet>,
    /// Source or destination port of TCP or UDP.
    #[arg(long, value_name = "NUMBER")]
    port: Option<u16>,
    /// tcp, udp, icmp, icmpv6, sctp or a number.
    #[arg(long, value_name = "NAME", value_parser = protocol)]
    protocol: Option<u8>,
    /// The virtual routing table.
    #[arg(long, value_name = "NUMBER")]
    vrf: Option<u32>,
}

#[derive(Args)]
pub(super) struct FlowsArguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// Show so many at most; 0 shows all.
    #[arg(long, default_value_t = 1000)]
    limit: u32,
}

#[derive(Args)]
pub(super) struct CountersArguments {
    /// Show what was counted since the last time, again and again, each so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", conflicts_with = "diff",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) watch: Option<u32>,
    /// Show what is counted within so many seconds, once.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) diff: Option<u32>,
    /// Show arcs that counted nothing too.
    #[arg(long)]
    pub(super) all: bool,
}

#[derive(Args)]
pub(super) struct TraceArguments {
    #[command(flatten)]
    filter: FilterArguments,
    /// The port (its id, see `millrace ports`) where the packets enter.
    #[arg(long, value_name = "ID")]
    on: Option<String>,
    /// How many packets to follow.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    count: u32,
    /// Wait so many seconds at most.
    #[arg(long, default_value_t = 10)]
    pub(super) seconds: u32,
    /// Follow a packet of your own: hexadecimal from its Ethernet header on, or @FILE that holds its bytes.
    #[arg(long, value_name = "HEX|@FILE", requires = "on", conflicts_with_all = ["address", "port", "protocol", "vrf", "count"])]
    inject: Option<String>,
}

impl FilterArguments {
    fn filter(&self) -> Filter {
        Filter {
            vrf: self.vrf,
            address: self.address.map(|net| Prefix::new(net.addr(), net.prefix_len())),
            l4_port: self.port.unwrap_or(0).into(),
            protocol: self.protocol.unwrap_or(0).into(),
            port: String::new(),
        }
    }
}

impl FlowsArguments {
    pub(super) fn request(&self) -> Result<FlowsRequest, Failure> {
        Ok(FlowsRequest { filter: Some(self.filter.filter()), limit: self.limit })
    }
}

impl TraceArguments {
    pub(super) fn request(&self) -> Result<TraceRequest, Failure> {
        let port = self.on.clone().unwrap_or_default();
        let what = match &self.inject {
            Some(packet) => trace_request::What::Inject(trace_request::Inject { port, frame: frame(packet)? }),
            None => {
                let filter = Filter { port, ..self.filter.filter() };
                trace_request::What::Live(trace_request::Live { filter: Some(filter), count: self.count })
            }
        };
        Ok(TraceRequest { what: Some(what), seconds: self.seconds })
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "neither an address nor a prefix".to_owned())
}

fn protocol(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmpv6" => Ok(58),
        "sctp" => Ok(132),
        number => number.parse().map_err(|_| "neither tcp, udp, icmp, icmpv6, sctp nor a number to 255".to_owned()),
    }
}

fn frame(text: &str) -> Result<Vec<u8>, Failure> {
    if let Some(path) = text.strip_prefix('@') {
        return std::fs::read(path).map_err(|error| Failure::Usage(format!("cannot read {path}: {error}")));
    }
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b':').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|_| pair.len() == 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    bytes
        .filter(|bytes| !bytes.is_empty())
        .ok_or_else(|| Failure::Usage(format!("--inject: {text:?} is not hexadecimal")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn filters_become_requests() {
        let Command::Flows(flows) =
            parse("millrace flows --address 10.1.0.0/16 --protocol tcp --port 80").unwrap().command
        else {
            panic!("not flows")
        };
        let filter = flows.request().unwrap().filter.unwrap();
        assert_eq!(filter.address.unwrap().text(), "10.1.0.0/16");
        assert_eq!((filter.protocol, filter.l4_port, filter.vrf), (6, 80, None));
    }

    #[test]
    fn a_packet_is_read_from_hexadecimal() {
        let Command::Trace(trace) = parse("millrace trace --on uplink --inject 02:00ff").unwrap().command else {
            panic!("not trace")
        };
        let Some(trace_request::What::Inject(inject)) = trace.request().unwrap().what else { panic!("not injected") };
        assert_eq!((inject.port.as_str(), inject.frame.as_slice()), ("uplink", &[2, 0, 255][..]));
        for bad in ["", "0", "0g", "@/nonexistent"] {
            assert!(matches!(frame(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "millrace",
            "millrace trace --inject 00",
            "millrace trace --on a --inject 00 --count 3",
            "millrace counters --watch --diff",
            "millrace flows --protocol nonsense",
            "millrace flows --address nonsense",
            "millrace trace --count 256",
            "millrace -o xml status",
        ] {
            assert_eq!(parse(line).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
    }
}
